//! Bytes both ways between two ends, until both have finished or one has broken.
//!
//! What the ends see is what plain TCP would show them: a FIN is passed on as a half-close, a reset as a reset, and
//! data that arrived before a reset is delivered before it. No buffer is held while a connection is idle: a task waits for
//! readiness and borrows its worker's scratch memory only while bytes are in hand.

mod tunnel;
mod tcp;
mod turns;
mod scratch;

use std::io;
use std::pin::pin;
use std::sync::OnceLock;
use std::time::Duration;

use mesh_net::tunnel::stream::{Stream, StreamError};
use tokio::net::TcpStream;

use crate::connection::{End, Live};
use crate::socket::{self, Dialled};

/// How long bytes that a broken end sent before it broke may take to reach the other end.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Reason of a connection that the application, or its agent for it, reset.
pub const DESTINATION_RESET: &str = "destination_reset";

/// Which end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    App,
}

/// Why bytes stopped.
#[derive(Debug)]
enum Broken {
    /// All that this side sent was delivered, and then it broke.
    Reading(Side, Cause),
    /// This side takes no more.
    Writing(Side, Cause),
}

#[derive(Debug)]
enum Cause {
    Io(io::Error),
    Tunnel(StreamError),
}

impl Broken {
    fn end(&self) -> End {
        let (Self::Reading(side, cause) | Self::Writing(side, cause)) = self;
        let reason = match (side, cause) {
            (_, Cause::Tunnel(StreamError::ConnectionLost)) => "tunnel_lost",
            (Side::Client, _) => "client_reset",
            (Side::App, _) => DESTINATION_RESET,
        };
        match cause {
            Cause::Io(error) => End::because(reason, error),
            Cause::Tunnel(error) => End::because(reason, error),
        }
    }
}

/// What was read of a client before its destination was reached.
#[derive(Debug, Default)]
pub struct Begun {
    /// Bytes that the destination has already.
    pub sent: usize,
    /// Bytes that it has not.
    pub unsent: Box<[u8]>,
    /// How the client was broken.
    pub broken: Option<io::Error>,
}

/// Which sides' sockets have told their error, and whether an end that is read from them is no FIN then.
#[derive(Debug, Default)]
struct Cut {
    client: OnceLock<bool>,
    app: OnceLock<bool>,
}

impl Cut {
    /// With what is known of one end from before.
    fn of(side: Side, broken: Option<&io::Error>) -> Self {
        let cut = Self::default();
        if let Some(error) = broken {
            cut.note(side, error);
        }
        cut
    }

    /// A reset after a FIN is a broken pipe on Linux (`tcp_reset`): what is read from such a side ends with the FIN.
    fn note(&self, side: Side, error: &io::Error) {
        let cut = match side {
            Side::Client => &self.client,
            Side::App => &self.app,
        };
        // A socket tells its error once; every write after that says broken pipe.
        cut.get_or_init(|| error.kind() != io::ErrorKind::BrokenPipe);
    }
}

/// Carries a client's connection to an application that is one more TCP connection away.
pub async fn relay(client: TcpStream, begun: Begun, app: Dialled, live: &Live) -> End {
    let Dialled { stream: app, broken } = app;
    let cut = Cut::of(Side::App, broken.as_ref());
    begun.broken.iter().for_each(|error| cut.note(Side::Client, error));
    let count = |n| live.count_received(n);
    let up = async {
        tcp::write_all(&app, &begun.unsent, Side::App).await?;
        count(begun.unsent.len());
        drop(begun.unsent);
        tcp::copy(&client, Side::Client, &app, Side::App, &cut.client, count).await
    };
    let down = tcp::copy(&app, Side::App, &client, Side::Client, &cut.app, |n| live.count_sent(n));
    let end = run(up, down, tcp::broken(&client, begun.broken), tcp::broken(&app, broken), &cut, live).await;
    if end.reason != End::COMPLETE {
        socket::reset(client);
        socket::reset(app);
    }
    end
}

/// Carries a captured connection of a pod into a tunnel.
pub async fn into_tunnel(client: TcpStream, begun: Begun, stream: Stream, live: &Live) -> End {
    let (mut tx, mut rx) = stream.split();
    let cut = Cut::of(Side::Client, begun.broken.as_ref());
    let count = |n| live.count_received(n);
    count(begun.sent);
    let end = {
        let up = async {
            if !begun.unsent.is_empty() {
                let sent = Box::pin(tx.send(&begun.unsent)).await;
                sent.map_err(|error| Broken::Writing(Side::App, Cause::Tunnel(error)))?;
                count(begun.unsent.len());
            }
            drop(begun.unsent);
            tunnel::send(&client, Side::Client, &mut tx, Side::App, &cut.client, count).await
        };
        let down = tunnel::receive(&mut rx, Side::App, &client, Side::Client, |n| live.count_sent(n));
        run(up, down, tcp::broken(&client, begun.broken), std::future::pending(), &cut, live).await
    };
    if end.reason != End::COMPLETE {
        tx.flush(LAST_WORDS).await;
        tx.reset();
        socket::reset(client);
    }
    end
}

/// Carries what came out of a tunnel to the application.
pub async fn from_tunnel(stream: Stream, app: Dialled, live: &Live) -> End {
    let Dialled { stream: app, broken } = app;
    let (mut tx, mut rx) = stream.split();
    let cut = Cut::of(Side::App, broken.as_ref());
    let end = {
        let up = tunnel::receive(&mut rx, Side::Client, &app, Side::App, |n| live.count_received(n));
        let down = tunnel::send(&app, Side::App, &mut tx, Side::Client, &cut.app, |n| live.count_sent(n));
        run(up, down, std::future::pending(), tcp::broken(&app, broken), &cut, live).await
    };
    if end.reason != End::COMPLETE {
        tx.flush(LAST_WORDS).await;
        tx.reset();
        socket::reset(app);
    }
    end
}

/// Drives both directions. `up` reads from the client, `down` from the application; each resolves once its reader has
/// finished and the writer was told. The watchers resolve when a side is broken though nobody reads from it.
async fn run(
    up: impl Future<Output = Result<(), Broken>>,
    down: impl Future<Output = Result<(), Broken>>,
    client_broken: impl Future<Output = io::Error>,
    app_broken: impl Future<Output = io::Error>,
    cut: &Cut,
    live: &Live,
) -> End {
    let (mut up, mut down) = (pin!(up), pin!(down));
    let (mut client_broken, mut app_broken) = (pin!(client_broken), pin!(app_broken));
    let (mut up_open, mut down_open) = (true, true);
    let broken = loop {
        if !up_open && !down_open {
            return End::complete();
        }
        tokio::select! {
            biased;
            end = live.ended() => return end,
            result = &mut up, if up_open => match result {
                Ok(()) => up_open = false,
                Err(broken) => { up_open = false; break broken }
            },
            result = &mut down, if down_open => match result {
                Ok(()) => down_open = false,
                Err(broken) => { down_open = false; break broken }
            },
            error = &mut client_broken => break Broken::Writing(Side::Client, Cause::Io(error)),
            error = &mut app_broken => break Broken::Writing(Side::App, Cause::Io(error)),
        }
    };
    // What the broken side sent before it broke is still owed to the other.
    if let Broken::Writing(side, cause) = &broken {
        if let Cause::Io(error) = cause {
            cut.note(*side, error);
        }
        match side {
            Side::Client if up_open => drop(tokio::time::timeout(LAST_WORDS, up).await),
            Side::App if down_open => drop(tokio::time::timeout(LAST_WORDS, down).await),
            Side::Client | Side::App => {}
        }
    }
    broken.end()
}
