//! What a handshake costs both ends: mutual TLS as agents make it, over loopback, in this process.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use mesh_net::pool::Transport;
use mesh_net::svid::{Svid, TrustBundle};
use mesh_net::tls::{self, Credentials, TrustDomains};
use mesh_net::tunnel::client::{self, Tunnel};
use mesh_net::tunnel::head::Head;
use mesh_net::tunnel::{self, server};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use tokio::net::{TcpListener, TcpStream};

use super::Plan;
use super::figures::{Figures, Way};
use super::l7::address::{Role, TRUST_DOMAIN};
use super::l7::authority::Authority;

pub(super) fn measure(plan: &Plan, figures: &mut Figures) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (authority, _) = Authority::fresh()?;
    let (ours, theirs) = (authority.svid(Role::Client)?, authority.svid(Role::Backend)?);
    let fresh = |(svid, trust): &(Arc<Svid>, Arc<TrustBundle>)| Credentials::new(svid.clone(), trust.clone());
    let count = if plan.quick { 100 } else { 1000 };
    for _ in 0..plan.repetitions() {
        // Tickets are kept with credentials, so who is new has none.
        let strangers: Vec<_> = (0..count).map(|_| (fresh(&ours), fresh(&theirs))).collect();
        let full = runtime.block_on(spent(&strangers))?;
        figures.add("both ends", "a full handshake, CPU", "us", Way::Agents, full);
        let known: Vec<_> = (0..count).map(|_| strangers[0].clone()).collect();
        let resumed = runtime.block_on(spent(&known))?;
        figures.add("both ends", "a resumed handshake, CPU", "us", Way::Agents, resumed);
    }
    Ok(())
}

/// Microseconds of processor time, the kernel's included, for each pair's handshake and a stream that is refused, with which
/// the first ticket comes. TCP's own handshakes are made before.
async fn spent(pairs: &[(Credentials, Credentials)]) -> Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let to = listener.local_addr()?;
    let mut sockets = Vec::new();
    for _ in pairs {
        let (dialled, accepted) = tokio::try_join!(TcpStream::connect(to), listener.accept())?;
        dialled.set_nodelay(true)?;
        accepted.0.set_nodelay(true)?;
        sockets.push((dialled, accepted.0));
    }
    let (domains, expected) = (TrustDomains::only(TRUST_DOMAIN), [Role::Backend.identity()]);
    let (alpn, config) = (Transport::Any.alpn(), tunnel::Config::default());
    let before = process_time()?;
    for ((client, server), (dialled, accepted)) in pairs.iter().zip(sockets) {
        let asking = async {
            let tls = tls::connect(dialled, client, &expected, alpn, LIMIT).await?;
            let Tunnel::Lane(lane) = client::begin(tls, &config) else { anyhow::bail!("no lane was agreed on") };
            let refused = lane.open(&Head::to("10.0.0.1:80"), LIMIT, None, Arc::new(Nowhere)).await;
            anyhow::ensure!(refused.is_err(), "the stream was to be refused");
            Ok(())
        };
        let serving = async {
            let tls = tls::accept(accepted, server, &domains, alpn, LIMIT).await?;
            let mut lane = server::Connection::handshake(tls, &config).await?;
            if let Some(request) = lane.accept().await {
                request?.refuse(server::Status::Unavailable);
            }
            Ok(())
        };
        tokio::try_join!(asking, serving)?;
    }
    Ok((process_time()? - before) * 1e6 / pairs.len() as f64)
}

/// Seconds.
fn process_time() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    Ok((usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6)
}

/// Lanes are not used again.
struct Nowhere;

impl client::Berth for Nowhere {
    fn back(&self, lane: client::Lane) {
        lane.leave();
    }
}

const LIMIT: Duration = Duration::from_secs(10);
