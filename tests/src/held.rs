//! A connection that lives until it is dropped.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Result, ensure};

use crate::place::Place;
use crate::wait::PATIENCE;

/// To an echo server; that it lives can be checked again and again.
#[derive(Debug)]
pub struct Held(TcpStream);

impl Held {
    /// Dials `to`, and knows that it is answered.
    ///
    /// # Errors
    /// When it is not.
    pub fn begin(from: &Place, to: SocketAddr) -> Result<Held> {
        let stream = from.dial(to)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let held = Held(stream);
        held.check()?;
        Ok(held)
    }

    /// Says something and waits for the same words.
    ///
    /// # Errors
    /// When the connection has ended, or other words come back.
    pub fn check(&self) -> Result<()> {
        let said = b"still there?";
        (&self.0).write_all(said)?;
        let mut heard = [0; 12];
        (&self.0).read_exact(&mut heard)?;
        ensure!(&heard == said, "heard {heard:?}");
        Ok(())
    }
}
