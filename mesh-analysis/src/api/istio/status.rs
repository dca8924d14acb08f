//! `status` of every kind of Istio's: written by controllers, so that anything may be in it.

use crate::schema::{Shape, TEXT, Type, field, objects};

pub(super) static STATUS: Shape = Shape::new(&[
    field("conditions", objects(&CONDITION), "What controllers found when they put the object in force."),
    field("observedGeneration", Type::IntOrString, "Generation of the object that the conditions are about."),
    field("validationMessages", objects(&MESSAGE), "Findings of an analysis."),
])
.open();

static CONDITION: Shape = Shape::new(&[
    field("type", TEXT, "What is asked, such as Accepted."),
    field("status", TEXT, "True, False or Unknown."),
    field("reason", TEXT, "The answer's cause in one word."),
    field("message", TEXT, "The answer's cause in a sentence."),
    field("lastProbeTime", TEXT.format("date-time"), "When it was last asked."),
    field("lastTransitionTime", TEXT.format("date-time"), "When the answer last changed."),
    field("observedGeneration", Type::IntOrString, "Generation of the object that this is about."),
]);

static MESSAGE: Shape = Shape::new(&[
    field("type", Type::Object(&MESSAGE_TYPE), "Which finding it is."),
    field("level", Type::Choice(&["UNKNOWN", "ERROR", "WARNING", "INFO"]), "How grave it is."),
    field("documentationUrl", TEXT, "Where it is explained."),
]);

static MESSAGE_TYPE: Shape =
    Shape::new(&[field("name", TEXT, "Name of the finding."), field("code", TEXT, "Code of the finding.")]);
