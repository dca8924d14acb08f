//! How Weft's programs talk: mutual TLS, the HBONE tunnel, the control stream, certificate requests, the admin endpoint.
//!
//! It knows how to reach and recognise a peer, never whether the peer may pass: who may connect is policy, and policy
//! is decided above. No Kubernetes, no eBPF.
//!
//! ```text
//! TcpStream --tls::connect / tls::accept--> ClientTls / ServerTls (peer: SpiffeId)
//!                                             --tunnel::client / tunnel::server--> Connection --> Stream
//! ```

pub mod admin;
pub mod logging;
pub mod settings;
pub mod labels;
pub mod control;
pub mod pool;
pub mod certificates;
pub mod ca;
pub mod grpc;
pub mod tunnel;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tls;
pub mod http2;
pub mod header_list;
pub mod svid;
pub mod causes;
pub mod unix_time;
