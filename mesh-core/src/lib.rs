//! What is true in a Weft mesh: identities, workloads, services, policy, the snapshot and the wire messages. No socket, no clock, no task.
