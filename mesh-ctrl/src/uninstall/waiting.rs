//! Waiting for a step to take effect.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

/// Asks until the answer is yes. What the API server refuses meanwhile may be a moment's trouble: it is asked again.
///
/// # Errors
/// The answer is not yes within that time; the last refusal, if there was one, is the cause.
pub(super) async fn until(what: &str, within: Duration, mut done: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    loop {
        let answer = done().await;
        if let Ok(true) = answer {
            return Ok(());
        }
        if begun.elapsed() >= within {
            match answer {
                Err(error) => return Err(error.context(format!("waited {within:?} in vain for {what}"))),
                Ok(_) => bail!("waited {within:?} in vain for {what}"),
            }
        }
        sleep(PAUSE).await;
    }
}

const PAUSE: Duration = Duration::from_millis(250);
