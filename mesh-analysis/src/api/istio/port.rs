//! How ports and destinations are written: shared by several kinds.

use crate::schema::{Shape, TEXT, UINT32, field, object};

/// A port by its number.
pub(super) static PORT_SELECTOR: Shape = Shape::new(&[field("number", UINT32, "Number of the port.")]);

/// A service, or a part of it.
pub(super) static DESTINATION: Shape = Shape::new(&[
    field("host", TEXT, "Name of the service: short, in its namespace, or in full.").required(),
    field("subset", TEXT, "A subset of the service that a DestinationRule names."),
    field("port", object(&PORT_SELECTOR), "Port of the service; may be left out if it has one only."),
]);
