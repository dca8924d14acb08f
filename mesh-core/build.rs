//! Compiles the wire messages; `protox` is a protobuf compiler in Rust, so no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files =
        ["workload", "authorization", "extensions", "discovery", "ca", "zds"].map(|n| format!("proto/{n}.proto"));
    let descriptors = protox::compile(files, ["proto"])?;
    let mut config = prost_build::Config::new();
    config.bytes(["."]).btree_map(["."]).skip_protoc_run();
    config.compile_fds(descriptors)?;
    Ok(())
}
