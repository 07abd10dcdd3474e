//! Makes Rust of the `.proto` files, with protox in place of protoc.

use std::path::PathBuf;

use prost::Message;

const FILES: [&str; 2] = ["scistream/control.proto", "scistream/gateway/v1/gateway.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let set = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    // For the reflection service.
    std::fs::write(out.join("descriptors.bin"), set.encode_to_vec())?;
    tonic_prost_build::configure().codec_path("crate::codec::Codec").compile_fds(set)?;
    Ok(())
}
