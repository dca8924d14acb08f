//! From the API server's question to our answer: a pure function of bytes.

use std::collections::BTreeSet;

use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, META_API_VERSION_V1, Operation};
use kube::core::response::StatusSummary;
use kube::core::{DynamicObject, Status};
use mesh_analysis::api::{self, Kind};
use mesh_analysis::{Code, Finding, Severity, validate};
use serde_json::Value;
use thiserror::Error;

use super::{Outcome, wording};

/// A question that was understood.
#[derive(Debug)]
pub(super) struct Reviewed {
    pub(super) answer: AdmissionReview<DynamicObject>,
    pub(super) kind: Option<&'static Kind>,
    pub(super) outcome: Outcome,
}

/// Why a body cannot be answered.
#[derive(Debug, Error)]
pub(super) enum Malformed {
    #[error("the body is no AdmissionReview: {0}")]
    Body(#[from] serde_json::Error),
    #[error("the body is a {kind} of {version:?}; answered is an AdmissionReview of {META_API_VERSION_V1}")]
    Version { version: String, kind: String },
    #[error("the review has no request")]
    NoRequest,
    #[error("the review has no object")]
    NoObject,
}

/// What is to be answered to an `AdmissionReview` in JSON.
///
/// # Errors
/// It is none, or of another version than v1.
pub(super) fn review(body: &[u8]) -> Result<Reviewed, Malformed> {
    let review: AdmissionReview<DynamicObject> = serde_json::from_slice(body)?;
    let (version, kind) = (&review.types.api_version, &review.types.kind);
    if version != META_API_VERSION_V1 || kind != "AdmissionReview" {
        return Err(Malformed::Version { version: version.clone(), kind: kind.clone() });
    }
    let request: AdmissionRequest<DynamicObject> = review.try_into().map_err(|_| Malformed::NoRequest)?;
    let verdict = judge(&request)?;
    let mut response = AdmissionResponse::from(&request);
    if !verdict.warnings.is_empty() {
        response.warnings = Some(wording::warnings(&verdict.warnings));
    }
    if !verdict.refused_for.is_empty() {
        response = response.deny(wording::refusal(&verdict.refused_for));
        // No details: kubectl shows their causes in place of the message, and then nobody is told who refused.
        response.result =
            Status { status: Some(StatusSummary::Failure), code: 422, reason: "Invalid".to_owned(), ..response.result };
    }
    let outcome = match (response.allowed, &response.warnings) {
        (false, _) => Outcome::Refused,
        (true, Some(_)) => Outcome::Warned,
        (true, None) => Outcome::Admitted,
    };
    let kind = api::kind(&request.kind.group, &request.kind.kind);
    Ok(Reviewed { answer: response.into_review(), kind, outcome })
}

#[derive(Debug, Default)]
struct Verdict {
    refused_for: Vec<Finding>,
    warnings: Vec<Finding>,
}

/// An update that leaves what an object says as it is (labels, finalizers) is not refused for what was wrong before: whoever
/// makes it may have no part in that, and an object that cannot be changed cannot even be released for deletion.
fn judge(request: &AdmissionRequest<DynamicObject>) -> Result<Verdict, Malformed> {
    if !matches!(request.operation, Operation::Create | Operation::Update) {
        return Ok(Verdict::default());
    }
    let Some(object) = &request.object else { return Err(Malformed::NoObject) };
    if object.metadata.deletion_timestamp.is_some() {
        return Ok(Verdict::default());
    }
    let new = serde_json::to_value(object)?;
    let known: BTreeSet<_> = match (&request.operation, &request.old_object) {
        (Operation::Update, Some(old)) if old.types == object.types && says(&old.data) == says(&object.data) => {
            validate(&serde_json::to_value(old)?).into_iter().map(of).collect()
        }
        _ => BTreeSet::new(),
    };
    let (refused_for, warnings) = validate(&new).into_iter().partition(|finding| {
        finding.severity == Severity::Error
            && !known.contains(&of(finding.clone()))
            && !(is_shared(&request.kind.group) && is_vocabulary(finding.code))
    });
    Ok(Verdict { refused_for, warnings })
}

/// What an object says: all but `apiVersion`, `kind`, `metadata` and `status`.
fn says(data: &Value) -> Vec<(&String, &Value)> {
    data.as_object().into_iter().flatten().filter(|(part, _)| *part != "status").collect()
}

/// What makes a finding the same one.
fn of(finding: Finding) -> (Code, String, String) {
    (finding.code, finding.path, finding.message)
}

/// Whether objects of the group may be for somebody else: the Gateway API has many implementations.
fn is_shared(group: &str) -> bool {
    group == "gateway.networking.k8s.io"
}

/// Findings about words that the tables do not have. The API server has checked the object by the definition that is
/// installed, so these words are of a later release or of the experimental channel: not Weft's to refuse.
fn is_vocabulary(code: Code) -> bool {
    matches!(code, Code::UnknownKind | Code::UnservedVersion | Code::UnknownField | Code::UnknownValue)
}

#[cfg(test)]
mod tests;
