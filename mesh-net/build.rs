//! Generates the gRPC clients and servers. Messages are mesh-core's.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = "../mesh-core/proto";
    println!("cargo:rerun-if-changed={proto}");
    let descriptors = protox::compile(["discovery", "ca"].map(|n| format!("{proto}/{n}.proto")), [proto])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    for (side, client) in [("client", true), ("server", false)] {
        let dir = out.join(side);
        std::fs::create_dir_all(&dir)?;
        let builder = tonic_prost_build::configure()
            .build_client(client)
            .build_server(!client)
            .build_transport(client)
            .emit_rerun_if_changed(false)
            .out_dir(dir)
            .extern_path(".istio.v1.auth", "::mesh_core::wire::ca")
            .extern_path(".envoy.service.discovery.v3", "::mesh_core::wire::discovery");
        builder.compile_fds(descriptors.clone())?;
    }
    Ok(())
}
