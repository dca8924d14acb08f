//! Values of metric labels.

use std::fmt::{Error, Write as _};
use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};

/// A label value that shares the model's text; empty is written as `unknown`, as Istio's telemetry does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Text(pub Option<Arc<str>>);

impl EncodeLabelValue for Text {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), Error> {
        encoder.write_str(self.0.as_deref().filter(|s| !s.is_empty()).unwrap_or("unknown"))
    }
}

impl From<&Arc<str>> for Text {
    fn from(text: &Arc<str>) -> Self {
        Self(Some(text.clone()))
    }
}
