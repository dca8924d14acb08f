//! The programs. One hook, one file; the maps they share are in `state.rs`.
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]
// The build sets RUSTC_BOOTSTRAP for build-std already.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod connect;
#[cfg(target_arch = "bpf")]
mod service;
#[cfg(target_arch = "bpf")]
mod sock_ops;
#[cfg(target_arch = "bpf")]
mod direct;
#[cfg(target_arch = "bpf")]
mod pacing;
#[cfg(target_arch = "bpf")]
mod sk_lookup;
#[cfg(target_arch = "bpf")]
mod socket;
#[cfg(target_arch = "bpf")]
mod state;

/// Compared by the agent with its own before it loads anything.
#[cfg(target_arch = "bpf")]
#[unsafe(no_mangle)]
#[unsafe(link_section = "weft_abi")]
#[used]
static WEFT_ABI: u32 = mesh_ebpf::ABI_VERSION;

/// `bpf_setsockopt` and several others are for GPL programs only; the licence of a program is this string.
#[cfg(target_arch = "bpf")]
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The workspace builds on the host too, where there is nothing to run.
#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("weft-ebpf holds eBPF programs: build it for bpfel-unknown-none (cargo xtask build-ebpf)");
}
