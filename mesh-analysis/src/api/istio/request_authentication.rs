//! RequestAuthentication: which tokens of end users are good.

use super::selector::{ONE_WAY_TO_SELECT, SELECTOR, TARGET_REF_FIELD, TARGET_REFS};
use super::status::STATUS;
use super::{SECURITY, SECURITY_CATEGORIES, SECURITY_VERSIONS};
use crate::schema::{BOOLEAN, DURATION, Kind, Scope, Shape, TEXT, Type, field, list, objects, rule};

pub(crate) static REQUEST_AUTHENTICATION: Kind = Kind {
    group: SECURITY,
    kind: "RequestAuthentication",
    plural: "requestauthentications",
    singular: "requestauthentication",
    short_names: &["ra"],
    categories: SECURITY_CATEGORIES,
    scope: Scope::Namespaced,
    versions: SECURITY_VERSIONS,
    spec: &SPEC,
    spec_required: false,
    status: Some(&STATUS),
    columns: &[],
    doc: "Which tokens of end users are good. A request without one is let through; an AuthorizationPolicy asks for one.",
    not_carried_out: None,
};

static SPEC: Shape = Shape::new(&[
    SELECTOR,
    TARGET_REF_FIELD,
    TARGET_REFS,
    field("jwtRules", objects(&RULE).most(4096), "Issuers whose tokens are good, any of these."),
])
.rules(&[ONE_WAY_TO_SELECT]);

static RULE: Shape = Shape::new(&[
    field("issuer", WORD, "The token's iss."),
    field("audiences", list(&WORD), "The token's aud, any of these; any at all if left out."),
    field("jwksUri", TEXT.least(1).most(2048), "Where the issuer's keys are: http or https."),
    field("jwks_uri", TEXT.least(1).most(2048), "Where the issuer's keys are.").deprecated("jwksUri"),
    field("jwks", TEXT, "The issuer's keys, as a JSON Web Key Set."),
    field("fromHeaders", objects(&HEADER), "Headers that a token may be in."),
    field("fromParams", list(&WORD), "Query parameters that a token may be in."),
    field("fromCookies", list(&WORD), "Cookies that a token may be in."),
    field("outputPayloadToHeader", TEXT, "Header that the token's claims are put into, in base64url."),
    field("outputClaimToHeaders", objects(&CLAIM), "Headers that single claims are put into."),
    field("forwardOriginalToken", BOOLEAN, "Whether the token is handed on."),
    field("timeout", DURATION, "How long fetching the keys may take."),
    field("spaceDelimitedClaims", list(&WORD).most(64), "Claims that are lists of words, by spaces."),
])
.rules(&[rule(
    "(has(self.jwksUri) ? 1 : 0) + (has(self.jwks_uri) ? 1 : 0) + (has(self.jwks) ? 1 : 0) <= 1",
    "jwks and jwksUri exclude each other",
)]);

const WORD: Type = TEXT.least(1);

static HEADER: Shape = Shape::new(&[
    field("name", WORD, "Name of the header.").required(),
    field("prefix", TEXT, "What stands before the token, such as Bearer and a space."),
]);

static CLAIM: Shape = Shape::new(&[
    field("header", WORD.like("^[-_A-Za-z0-9]+$"), "Name of the header.").required(),
    field("claim", WORD, "Name of the claim.").required(),
]);
