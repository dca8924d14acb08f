//! Whole-mesh scenarios: two nodes in network namespaces, real eBPF, real programs.
