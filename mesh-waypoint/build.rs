//! Compiles the protocols of external authorizers and of OTLP collectors; `protox` is a protobuf compiler in Rust, so no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/external_auth.proto", "proto/trace.proto"], ["proto"])?;
    let mut config = prost_build::Config::new();
    config.bytes(["."]).btree_map(["."]).include_file("protocols.rs").skip_protoc_run();
    config.compile_fds(descriptors)?;
    Ok(())
}
