//! Generates the gRPC clients and servers. Messages are mesh-core's, except that a server answers delta discovery with
//! an `EncodedResponse`: resources encoded once are sent to every agent as they are.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = "../mesh-core/proto";
    println!("cargo:rerun-if-changed={proto}");
    let descriptors = protox::compile(["discovery", "ca"].map(|n| format!("{proto}/{n}.proto")), [proto])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let discovery = ".envoy.service.discovery.v3";
    for (side, client) in [("client", true), ("server", false)] {
        let dir = out.join(side);
        std::fs::create_dir_all(&dir)?;
        let mut builder = tonic_prost_build::configure()
            .build_client(client)
            .build_server(!client)
            .build_transport(client)
            .emit_rerun_if_changed(false)
            .out_dir(dir)
            .extern_path(".istio.v1.auth", "::mesh_core::wire::ca");
        if client {
            builder = builder.extern_path(discovery, "::mesh_core::wire::discovery");
        } else {
            for message in ["Node", "Status", "DeltaDiscoveryRequest", "Resource"] {
                builder = builder
                    .extern_path(format!("{discovery}.{message}"), format!("::mesh_core::wire::discovery::{message}"));
            }
            builder =
                builder.extern_path(format!("{discovery}.DeltaDiscoveryResponse"), "crate::grpc::EncodedResponse");
        }
        builder.compile_fds(descriptors.clone())?;
    }
    Ok(())
}
