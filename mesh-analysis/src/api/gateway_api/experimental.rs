//! Fields of the experimental channel that waypoints carry out. The rendered CRDs are the standard channel's and have none of them:
//! they are for whoever installed the experimental CRDs, and for folders.

use super::reference::GATEWAY_DURATION;
use crate::schema::{Field, Shape, TEXT, Type, field, integer, list, object};

pub(super) const RETRY: Field = field("retry", object(&RETRY_SHAPE), "When a request is sent again.").experimental();

pub(super) const SESSION_PERSISTENCE: Field =
    field("sessionPersistence", object(&SESSION), "Keeps a client at its endpoint.").experimental();

/// RFC 9110, section 5.6.2: what names of cookies and headers are made of.
const TOKEN: &str = "^[-!#$%&'*+.^_`|~0-9A-Za-z]+$";

static RETRY_SHAPE: Shape = Shape::new(&[
    field("codes", list(&STATUS), "Statuses that are tried again."),
    field("attempts", integer(0, i32::MAX as i64), "Most retries of a request; 0 for none."),
    field("backoff", GATEWAY_DURATION, "Least time between attempts."),
]);

static STATUS: Type = integer(400, 599);

static SESSION: Shape = Shape::new(&[
    field("sessionName", TEXT.most(128).like(TOKEN), "Name of the cookie or header."),
    field("absoluteTimeout", GATEWAY_DURATION, "How long a session lasts at most."),
    field("idleTimeout", GATEWAY_DURATION, "How long a session lasts without requests."),
    field("type", Type::Choice(&["Cookie", "Header"]), "Where the session is kept; Cookie if left out."),
    field("cookieConfig", object(&COOKIE), "What the cookie is."),
]);

static COOKIE: Shape = Shape::new(&[field(
    "lifetimeType",
    Type::Choice(&["Permanent", "Session"]),
    "Whether the cookie outlives the browser's session; Session if left out.",
)]);
