//! A response, as curl in a place got it.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::place::Place;

/// A response, as curl printed it.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    /// What `place` is answered by `url`, with headers as `name: value` and further arguments for curl.
    ///
    /// # Errors
    /// When curl gets no response.
    pub fn to(place: &Place, url: &str, headers: &[&str], more: &[&str]) -> Result<Answer> {
        let headers = headers.iter().flat_map(|header| ["--header", header]);
        let common = [
            "--silent",
            "--show-error",
            "--globoff",
            "--path-as-is",
            "--noproxy",
            "*",
            "--max-time",
            "10",
            "--include",
        ];
        let said = place.command("curl").args(common).args(headers).args(more).arg(url).stdout()?;
        Answer::read(&said)
    }

    /// The first line of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// What the backend was asked, when one answered.
    ///
    /// # Errors
    /// When none did.
    pub fn report(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("no report of a backend: {self:?}"))
    }

    /// Who answered; empty: nobody.
    #[must_use]
    pub fn by(&self) -> &str {
        self.header("served-by").unwrap_or_default()
    }

    /// Values of a header that the backend was sent.
    ///
    /// # Errors
    /// When no backend answered.
    pub fn sent(&self, name: &str) -> Result<Vec<String>> {
        let report = self.report()?;
        let pairs = report["headers"].as_array().context("no headers")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(pairs.iter().filter(|pair| pair[0] == name).map(|pair| text(&pair[1])).collect())
    }

    fn read(said: &str) -> Result<Answer> {
        let (mut head, mut body) = said.split_once("\r\n\r\n").context("no end of a head")?;
        // Interim responses come before.
        while head.split(' ').nth(1).is_some_and(|status| status.starts_with('1')) && body.starts_with("HTTP/") {
            (head, body) = body.split_once("\r\n\r\n").context("no end of a head")?;
        }
        let mut lines = head.split("\r\n");
        let Some(status) = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok())
        else {
            bail!("no status in {said:?}");
        };
        let headers = lines.filter_map(|line| line.split_once(": ").or_else(|| line.split_once(':')));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
        Ok(Answer { status, headers, body: body.to_owned() })
    }
}
