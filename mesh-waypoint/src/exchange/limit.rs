//! What rate limits make of a request: an answer in its place, or fields in the answer that it gets.

use http::header;

use super::edit::{Edit, How};
use super::story::Story;
use crate::engine::ratelimit::Ruling;
use crate::engine::respond::{self, Reply};
use crate::session::Session;

/// The answer to a request that is over a limit.
pub(super) fn apply(session: &Session, story: &mut Story, ruling: Ruling) -> Option<Reply> {
    let telemetry = &session.shared.telemetry;
    let mut tell =
        |name: &str, value: String| story.edits.extend(Edit::new(How::Set, name.as_bytes(), value.as_bytes()));
    for (name, value) in ruling.quota.iter().flat_map(|quota| quota.fields()) {
        tell(name, value);
    }
    for policy in &ruling.recorded {
        telemetry.limited(policy, false);
    }
    let refused = ruling.refused?;
    tell(header::RETRY_AFTER.as_str(), refused.retry_after.to_string());
    telemetry.limited(&refused.rule, true);
    Some(respond::limited())
}
