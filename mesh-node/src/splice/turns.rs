//! Lets a worker's other connections have their turn.

/// Counts what a connection has moved since it last gave way.
#[derive(Debug, Default)]
pub(super) struct Turns(usize);

impl Turns {
    /// To be told of what was moved; gives way when it is enough.
    pub(super) async fn took(&mut self, bytes: usize) {
        self.0 += bytes;
        if self.0 >= TURN {
            self.0 = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// Bytes of a turn: about 50 us of a core.
const TURN: usize = 256 << 10;
