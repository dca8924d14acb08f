//! Real programs that serve in a place. None of them knows of a mesh; each is ready when its function returns.

use std::fs;

use anyhow::Result;

use crate::place::Place;
use crate::program::{Launch, Program, built};

/// redis-server on [`REDIS`], every address, nothing written to disk.
///
/// # Errors
/// When it is not installed or does not come up.
pub fn redis(place: &Place) -> Result<Program> {
    let port = REDIS.to_string();
    let launch = place.command("redis-server").args(["--port", &port, "--bind", "0.0.0.0", "::", "--dir"]);
    let launch = launch.arg(place.dir()).args(["--save", "", "--appendonly", "no", "--protected-mode", "no"]);
    listening(launch, REDIS)
}

/// nginx with HTTP/1.1 on [`HTTP`] and HTTP/2 with prior knowledge on [`H2C`]. It answers `/` with `body` and the
/// client's address in the header `client`, and serves files of `<place>/www` below `/files/`.
///
/// # Errors
/// When it is not installed or does not come up.
pub fn nginx(place: &Place, body: &str) -> Result<Program> {
    let dir = place.dir().join("nginx");
    let www = place.dir().join("www");
    fs::create_dir_all(&dir)?;
    fs::create_dir_all(&www)?;
    let (dir, www) = (dir.display(), www.display());
    let location = format!(
        "add_header client $remote_addr;\n location = / {{ default_type text/plain; return 200 '{}'; }}\n \
         location /files/ {{ alias {www}/; }}",
        body.replace('\'', "\\'")
    );
    let scratch =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path {dir}/{kind};"));
    let conf = format!(
        "daemon off;\nuser root;\nworker_processes 1;\npid {dir}/pid;\nerror_log stderr;\nevents {{ worker_connections 4096; }}\n\
         http {{\n access_log /dev/stdout;\n keepalive_requests 1000000;\n {}\n \
         server {{ listen {HTTP}; listen [::]:{HTTP}; {location} }}\n \
         server {{ listen {H2C} http2; listen [::]:{H2C} http2; {location} }}\n}}\n",
        scratch.join(" "),
    );
    let file = place.dir().join("nginx/nginx.conf");
    fs::write(&file, conf)?;
    let mut nginx = listening(place.command("nginx").arg("-c").arg(file).args(["-e", "stderr"]), HTTP)?;
    nginx.wait_listens(H2C)?;
    Ok(nginx)
}

/// Python's own HTTP server on `port`, both families, serving `<place>/www`.
///
/// # Errors
/// When it is not installed or does not come up.
pub fn python_http(place: &Place, port: u16) -> Result<Program> {
    let www = place.dir().join("www");
    fs::create_dir_all(&www)?;
    let launch = place.command("python3").args(["-u", "-m", "http.server", &port.to_string(), "--bind", "::"]);
    listening(launch.arg("--directory").arg(www), port)
}

/// nghttpd with HTTP/2 in clear text on `port`, serving `<place>/www`.
///
/// # Errors
/// When it is not installed or does not come up.
pub fn nghttpd(place: &Place, port: u16) -> Result<Program> {
    let www = place.dir().join("www");
    fs::create_dir_all(&www)?;
    listening(place.command("nghttpd").arg("--no-tls").arg("--htdocs").arg(www).arg(port.to_string()), port)
}

/// Our own gRPC server, see `grpc --help`.
///
/// # Errors
/// When it has not been built or does not come up.
pub fn grpc(place: &Place, port: u16) -> Result<Program> {
    listening(place.command(&built("grpc")?).args(["serve", "--port", &port.to_string()]), port)
}

/// An authorizer over gRPC: see its source for whom it lets pass.
///
/// # Errors
/// When it has not been built or does not come up.
pub fn authorizer(place: &Place, port: u16) -> Result<Program> {
    listening(place.command(&built("authorizer")?).args(["--port", &port.to_string()]), port)
}

/// A collector of traces by OTLP over gRPC, whose log has the spans that it was told: see its source.
///
/// # Errors
/// When it has not been built or does not come up.
pub fn collector(place: &Place, port: u16) -> Result<Program> {
    listening(place.command(&built("collector")?).args(["--port", &port.to_string()]), port)
}

/// Our own `backend`, which answers HTTP with what it was asked; see its source.
///
/// # Errors
/// When it has not been built or does not come up.
pub fn backend(place: &Place, port: u16, name: &str) -> Result<Program> {
    listening(place.command(&built("backend")?).args(["--port", &port.to_string(), "--name", name]), port)
}

/// iperf3's server on [`IPERF`]; it serves one client after the other.
///
/// # Errors
/// When it is not installed or does not come up.
pub fn iperf3(place: &Place) -> Result<Program> {
    listening(place.command("iperf3").args(["--server", "--port", &IPERF.to_string()]), IPERF)
}

/// Our own `probe` as a server: `echo`, `greet`, `slow` or `bulk`, see `probe --help`.
///
/// # Errors
/// When it has not been built or does not come up.
pub fn probe(place: &Place, server: &str, port: u16, more: &[&str]) -> Result<Program> {
    listening(place.command(&built("probe")?).args([server, "--port", &port.to_string()]).args(more), port)
}

/// `redis-cli` asking `host`, yielding what it prints.
///
/// # Errors
/// When it fails.
pub fn redis_cli(place: &Place, host: std::net::IpAddr, command: &[&str]) -> Result<String> {
    let launch = place.command("redis-cli").args(["-h", &host.to_string(), "-p", &REDIS.to_string()]);
    launch.args(command).stdout().map(|said| said.trim_end().to_owned())
}

/// A `curl` that is silent unless it fails, and gives up after ten seconds.
pub fn curl(place: &Place) -> Launch {
    place.command("curl").args([
        "--silent",
        "--show-error",
        "--fail",
        "--globoff",
        "--noproxy",
        "*",
        "--max-time",
        "10",
    ])
}

fn listening(launch: Launch, port: u16) -> Result<Program> {
    let mut program = launch.start()?;
    program.wait_listens(port)?;
    Ok(program)
}

pub const REDIS: u16 = 6379;
pub const HTTP: u16 = 80;
pub const H2C: u16 = 8081;
pub const IPERF: u16 = 5201;
