//! What there is to say about an object: a closed list of codes, each with its severity and its advice.

use std::fmt;

use serde::{Serialize, Serializer};

/// Something that is wrong with an object, or that its author may not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub code: Code,
    pub severity: Severity,
    pub object: ObjectRef,
    /// Of the field at fault, as in `spec.http[0].timeout`; empty for the object as a whole.
    pub path: String,
    /// What is wrong, with the values at fault; one sentence without a full stop.
    pub message: String,
    /// What to do about findings of this code.
    pub advice: &'static str,
}

/// Which object a finding is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ObjectRef {
    pub kind: String,
    /// Empty for the kinds that have none.
    pub namespace: String,
    pub name: String,
}

/// Gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The object cannot be put in force; admission refuses it.
    Error,
    /// The object can be put in force, and most likely does not do what its author wants; admission says so.
    Warning,
    /// Worth knowing.
    Info,
}

impl Finding {
    pub(crate) fn new(code: Code, object: ObjectRef, path: String, message: String) -> Self {
        Self { code, severity: code.severity(), object, path, message, advice: code.advice() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, severity, object, path, message, .. } = self;
        let colon = if path.is_empty() { "" } else { ": " };
        write!(f, "{severity} {code}: {object}: {path}{colon}{message}")
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.is_empty() {
            true => write!(f, "{} {}", self.kind, self.name),
            false => write!(f, "{} {}/{}", self.kind, self.namespace, self.name),
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        })
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

macro_rules! codes {
    ($($variant:ident $name:literal $severity:ident $meaning:literal $advice:literal)*) => {
        /// Names of findings. A name keeps its meaning for ever; tools may rely on it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $(#[doc = $meaning] $variant,)*
        }

        impl Code {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            pub fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity,)* }
            }

            /// What a finding of this code says, in a sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }

            pub fn advice(self) -> &'static str {
                match self { $(Self::$variant => $advice,)* }
            }
        }
    };
}

codes! {
    // The object's structure.
    UnknownKind "unknown-kind" Error
        "The API group has no such kind."
        "Check apiVersion and kind; a misspelt policy protects nothing."
    UnservedVersion "unserved-version" Error
        "The kind is not served in this version."
        "Write one of the versions that the message names."
    BadMetadata "bad-metadata" Error
        "The object's name or namespace is missing or is none."
        "Name the object by lower-case letters, digits, '-' and '.'."
    UnknownField "unknown-field" Error
        "The field does not exist; what it was meant to say would be lost."
        "Correct the name or remove the field."
    WrongType "wrong-type" Error
        "The value is of another type than the field holds."
        "Write the type that the message names; text that looks like a number needs quotes, a number none."
    MissingField "missing-field" Error
        "A field that has to be there is missing."
        "Add the field."
    UnknownValue "unknown-value" Error
        "The value is none of those that the field may have."
        "Write one of the values that the message names, in upper and lower case as there."
    OutOfRange "out-of-range" Error
        "The number is too small or too large."
        "Write a number within the bounds that the message names."
    BadFormat "bad-format" Error
        "The text is too short, too long, or not of the field's form."
        "Write text of the form that the message names."
    WrongCount "wrong-count" Error
        "The list or map has too few entries or too many."
        "Add or remove entries; more than fit go into a second object."
    DuplicateEntry "duplicate-entry" Error
        "Two entries of a list that tells its entries apart are the same."
        "Remove one of them, or give it another name."
    ExcludingFields "excluding-fields" Error
        "Fields are set of which only one may be."
        "Keep one of them."
    DeprecatedField "deprecated-field" Warning
        "The field is there for old configuration only."
        "Use the field that the message names."
    WithoutEffect "without-effect" Warning
        "Weft accepts this and does nothing with it."
        "Remove it, or do not count on it."

    // What texts and numbers mean.
    BadDuration "bad-duration" Error
        "The text is no duration, or one that the field does not allow."
        "Write a number and a unit, such as 500ms, 30s or 1h; most durations cannot be 0."
    BadHost "bad-host" Error
        "The text is no host name, or one that is not allowed here."
        "Write labels of letters, digits and '-', separated by dots; a wildcard is the whole first label."
    BadAddress "bad-address" Error
        "The text is no IP address or CIDR block, or one that is not allowed here."
        "Write an address such as 10.1.2.3 or 2001:db8::1, or a block such as 10.1.0.0/16."
    BadPort "bad-port" Error
        "The number is no port, or the name is no name of one."
        "Write a port from 1 to 65535; names of ports are lower-case letters, digits and '-'."
    BadProtocol "bad-protocol" Error
        "The protocol is not known."
        "Write HTTP, HTTPS, HTTP2, GRPC, GRPC-WEB, TCP, TLS, MONGO, MYSQL or REDIS."
    BadLabel "bad-label" Error
        "The text is no name or value of a label, or no name of a subset."
        "Labels are letters, digits, '-', '_' and '.', 63 characters at most; a domain may stand before the name."
    BadRegex "bad-regex" Error
        "The regular expression cannot be read, or is too long."
        "Write RE2's syntax: no look-around, no back-references; 1024 characters at most."
    BadHeader "bad-header" Error
        "The text is no name of a header, or of one that cannot be changed."
        "Header names are letters, digits, '-' and '_'; names that begin with ':' cannot be changed."
    BadStatus "bad-status" Error
        "The number or name is no status of HTTP or gRPC that may stand here."
        "Write an HTTP status from 200 to 599, or a gRPC status such as UNAVAILABLE."
    BadPercentage "bad-percentage" Error
        "The number is no percentage."
        "Write a number from 0 to 100."
    BadWeight "bad-weight" Error
        "Weights are negative, or add up to what they must not."
        "Give every destination a weight, at least one of them above 0."
    BadRetry "bad-retry" Error
        "The retry policy contradicts itself, or names a condition that does not exist."
        "Set attempts above 0, and conditions such as 5xx, connect-failure or unavailable."
    BadPath "bad-path" Error
        "The text is no path or path template that may stand here."
        "Write a path that begins with '/'; in a template {*} stands for one element and {**} for the rest."
    BadCondition "bad-condition" Error
        "The condition's attribute does not exist, or its values do not fit it."
        "Write an attribute such as source.ip or request.headers[name], and values or notValues."
    BadKeySet "bad-key-set" Error
        "The keys of an issuer cannot be read, or where they are is no URL."
        "Give jwks a JSON Web Key Set as text, or jwksUri a URL by http or https."
    BadAnnotation "bad-annotation" Error
        "An annotation that the mesh reads has a value that it does not know."
        "Write one of the values that the message names, or remove the annotation."
    EmptyValue "empty-value" Error
        "A value is empty that cannot be."
        "Write a value or remove the entry; '*' stands for any value that is there."

    // What objects say as a whole.
    EmptySetting "empty-setting" Error
        "A setting is there and says nothing."
        "Fill it in or remove it."
    ConflictingSettings "conflicting-settings" Error
        "Settings contradict or exclude each other."
        "Keep the one that is meant."
    MissingSetting "missing-setting" Error
        "A setting is needed because of another."
        "Add what the message names."
    DuplicateName "duplicate-name" Error
        "Two things of one object have the same name."
        "Give one of them another name, or remove it."
    BadTlsSettings "bad-tls-settings" Error
        "TLS settings lack something, or have something that the mode does not take."
        "Set what the mode needs: certificate and key, a secret, or nothing."
    BadExport "bad-export" Error
        "The namespaces that an object is exported to contradict each other."
        "Write '.' alone, '*' alone, or a list of namespaces."
    BadReference "bad-reference" Error
        "What the object refers to cannot be referred to from here."
        "Refer to the kinds and names that the message gives."
    NeverInForce "never-in-force" Error
        "As it is written, the policy never does anything."
        "Add a rule; an empty rule, {}, matches everything."
    LargeResponse "large-response" Warning
        "A fixed response is so large that every waypoint that holds it feels it."
        "Serve it by a small service."
    EmptySelector "empty-selector" Warning
        "A selector without labels selects every workload of the namespace."
        "Remove the selector if that is meant; otherwise add labels."
    LegacyName "legacy-name" Warning
        "The name is in a form that is read for old configuration only."
        "Write namespace/name."
    IgnoredSetting "ignored-setting" Warning
        "A setting has no effect because of another."
        "Remove it, or change what makes it ineffective."
    UnreachableRule "unreachable-rule" Warning
        "No traffic ever gets to the rule: one before it takes all that it matches."
        "Put the more specific rule first, or remove it."
    NeverMatches "never-matches" Warning
        "The value can never match anything."
        "Write what is compared: principals are trust-domain/ns/namespace/sa/name, without spiffe://."
    DeniesTcp "denies-tcp" Warning
        "A DENY by attributes of HTTP alone denies all other TCP traffic as well."
        "Add the ports that it is meant for."
    FailsClosed "fails-closed" Warning
        "The rule has attributes of HTTP and is carried out where there are none: ALLOW drops it, DENY denies more."
        "Attach the policy to a waypoint by targetRefs, or leave the attributes out."

    // How objects fit together.
    UnknownHost "unknown-host" Warning
        "No Service and no ServiceEntry has this name."
        "Correct the name, or add a ServiceEntry; short names are looked up in the object's namespace."
    UnknownSubset "unknown-subset" Warning
        "No DestinationRule of the host names this subset; its traffic is answered with an error."
        "Add the subset to a DestinationRule of the host, or correct the name."
    UnknownPort "unknown-port" Warning
        "The service has no such port."
        "Write a port of the service, or none if it has one only."
    UnknownGateway "unknown-gateway" Warning
        "There is no such Gateway, or no such listener of it."
        "Correct the reference, or add the Gateway; a name alone is looked up in the object's namespace."
    UnknownTarget "unknown-target" Warning
        "What the policy or route is attached to does not exist; it is not in force."
        "Correct the reference, or add what it names."
    NotGranted "not-granted" Warning
        "A reference to another namespace is allowed by no ReferenceGrant there."
        "Add a ReferenceGrant to the other namespace."
    SelectsNothing "selects-nothing" Warning
        "No workload that is known has these labels."
        "Compare the labels with those of the pods."
    NeedsWaypoint "needs-waypoint" Warning
        "This is carried out by waypoints only, and none serves what it is for: it is not in force."
        "Add a Gateway of class weft-waypoint and label namespace or service with istio.io/use-waypoint."
    ConflictingHosts "conflicting-hosts" Warning
        "Several objects are about the same host; one of them holds, or their order is not defined."
        "Merge them into one."
    ConflictingPolicies "conflicting-policies" Warning
        "Several policies are about the same workloads; the oldest holds."
        "Keep one."
    WrongTrustDomain "wrong-trust-domain" Warning
        "The principal's trust domain is none of the mesh's; it never matches."
        "Write the mesh's trust domain."
    UnknownPrincipal "unknown-principal" Info
        "No such namespace or service account is known; until there is one, the value matches nobody."
        "Check the spelling; ignore this if it is created later."
    NoDefaultRoute "no-default-route" Info
        "Every rule has conditions: what meets none of them is answered with 404."
        "Add a last rule without a match if that is not meant."
    MtlsMismatch "mtls-mismatch" Warning
        "Clients speak otherwise than the workloads' PeerAuthentication asks for."
        "Let the DestinationRule's tls and the PeerAuthentication agree; ISTIO_MUTUAL, or none at all, fits STRICT."
    LiteralAddress "literal-address" Warning
        "Names are looked up in DNS, and this is an address."
        "Write a name, or resolution STATIC."
}
