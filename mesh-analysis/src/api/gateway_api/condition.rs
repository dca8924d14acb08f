//! Status: conditions as Kubernetes has them, and what routes and policies say for each parent.

use super::reference::{CONTROLLER_PATTERN, PARENT};
use crate::schema::{Field, ListKind, Shape, TEXT, Type, field, integer, object, objects};

pub(super) static CONDITION: Shape = Shape::new(&[
    field("type", TEXT.most(316).like(TYPE), "What is asked, such as Accepted.").required(),
    field("status", Type::Choice(&["True", "False", "Unknown"]), "The answer.").required(),
    field("reason", TEXT.least(1).most(1024).like("^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"), "Its cause in a word.")
        .required(),
    field("message", TEXT.most(32_768), "Its cause in a sentence.").required(),
    field("lastTransitionTime", TEXT.format("date-time"), "When the answer last changed.").required(),
    field("observedGeneration", integer(0, i64::MAX), "Generation of the object that this is about."),
]);

pub(super) const CONDITION_LIST: Type = objects(&CONDITION).most(8).keyed(ListKind::Map(&["type"]));

/// Until a controller has looked at an object that it will set up.
pub(super) const WAITING_ACCEPTED_AND_PROGRAMMED: &str = concat!(
    r#"[{"type":"Accepted","status":"Unknown","reason":"Pending","message":"Waiting for controller","#,
    r#""lastTransitionTime":"1970-01-01T00:00:00Z"},"#,
    r#"{"type":"Programmed","status":"Unknown","reason":"Pending","message":"Waiting for controller","#,
    r#""lastTransitionTime":"1970-01-01T00:00:00Z"}]"#
);

/// Until a controller has looked at a class.
pub(super) const WAITING_ACCEPTED: &str = concat!(
    r#"[{"type":"Accepted","status":"Unknown","reason":"Pending","message":"Waiting for controller","#,
    r#""lastTransitionTime":"1970-01-01T00:00:00Z"}]"#
);

pub(super) static ROUTE_STATUS: Shape = Shape::new(&[field(
    "parents",
    objects(&ROUTE_PARENT).most(32).keyed(ListKind::Atomic),
    "What became of the route at each parent.",
)
.required()]);

static ROUTE_PARENT: Shape = Shape::new(&[
    field("parentRef", object(&PARENT), "The parent, as the route names it.").required(),
    CONTROLLER,
    field("conditions", objects(&CONDITION).least(1).most(8).keyed(ListKind::Map(&["type"])), "The answer.").required(),
]);

pub(super) static POLICY_STATUS: Shape = Shape::new(&[field(
    "ancestors",
    objects(&ANCESTOR).most(16).keyed(ListKind::Atomic),
    "What became of the policy at each gateway.",
)
.required()]);

static ANCESTOR: Shape = Shape::new(&[
    field("ancestorRef", object(&PARENT), "The gateway.").required(),
    CONTROLLER,
    field("conditions", objects(&CONDITION).least(1).most(8).keyed(ListKind::Map(&["type"])), "The answer.").required(),
]);

const CONTROLLER: Field =
    field("controllerName", TEXT.least(1).most(253).like(CONTROLLER_PATTERN), "Controller that wrote this.").required();

const TYPE: &str =
    r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$";
