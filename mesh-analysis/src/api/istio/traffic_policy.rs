//! How connections to a service are made: shared by DestinationRule and Sidecar.

use super::port::PORT_SELECTOR;
use crate::schema::{
    BOOLEAN, DURATION, DURATION_OR_ZERO, Field, Group, INT32, Shape, TEXT, TEXTS, Type, UINT32, field, integer, map,
    number, object, objects,
};

pub(super) static TRAFFIC_POLICY: Shape = Shape::new(&[
    LOAD_BALANCER_FIELD,
    CONNECTION_POOL_FIELD,
    OUTLIER_DETECTION_FIELD,
    TLS_FIELD,
    field(
        "portLevelSettings",
        objects(&PORT_TRAFFIC_POLICY).most(4096),
        "Settings for single ports; they replace those of the service.",
    ),
    field("tunnel", object(&TUNNEL), "Carries TCP to the host within another protocol."),
    field("proxyProtocol", object(&PROXY_PROTOCOL), "Sends a PROXY protocol header first."),
    field("retryBudget", object(&RETRY_BUDGET), "How many retries may be under way, as a share of all requests."),
]);

pub(super) static CONNECTION_POOL: Shape = Shape::new(&[
    field("tcp", object(&TCP_POOL), "Limits for connections, whatever they carry."),
    field("http", object(&HTTP_POOL), "Limits for HTTP."),
]);

static PORT_TRAFFIC_POLICY: Shape = Shape::new(&[
    field("port", object(&PORT_SELECTOR), "The port of the service that this is for."),
    LOAD_BALANCER_FIELD,
    CONNECTION_POOL_FIELD,
    OUTLIER_DETECTION_FIELD,
    TLS_FIELD,
]);

const LOAD_BALANCER_FIELD: Field = field("loadBalancer", object(&LOAD_BALANCER), "How an endpoint is chosen.");
const CONNECTION_POOL_FIELD: Field =
    field("connectionPool", object(&CONNECTION_POOL), "How many connections and requests may be open.");
const OUTLIER_DETECTION_FIELD: Field =
    field("outlierDetection", object(&OUTLIER_DETECTION), "When an endpoint that fails is left out for a while.");
const TLS_FIELD: Field = field("tls", object(&CLIENT_TLS), "TLS towards the service.");

static LOAD_BALANCER: Shape = Shape::new(&[
    field(
        "simple",
        Type::Choice(&["UNSPECIFIED", "LEAST_CONN", "RANDOM", "PASSTHROUGH", "ROUND_ROBIN", "LEAST_REQUEST"]),
        "A way of choosing that needs no settings.",
    ),
    field("consistentHash", object(&CONSISTENT_HASH), "Keeps a client at its endpoint by a hash."),
    field("localityLbSetting", object(&LOCALITY), "Which regions and zones are preferred."),
    field("warmupDurationSecs", DURATION, "How long a new endpoint gets less.").deprecated("warmup"),
    field("warmup", object(&WARMUP), "How a new endpoint gets more and more."),
])
.groups(&[Group::AtMostOne(&["simple", "consistentHash"])]);

static CONSISTENT_HASH: Shape = Shape::new(&[
    field("httpHeaderName", TEXT, "The header that is hashed."),
    field("httpCookie", object(&COOKIE), "The cookie that is hashed; it is set where it is missing and has a ttl."),
    field("useSourceIp", BOOLEAN, "The client's address is hashed."),
    field("httpQueryParameterName", TEXT, "The query parameter that is hashed."),
    field("ringHash", object(&RING_HASH), "Hashes by a ring."),
    field("maglev", object(&MAGLEV), "Hashes by Maglev's table."),
    field("minimumRingSize", integer(0, i64::MAX), "Size of the ring.").deprecated("ringHash.minimumRingSize"),
])
.groups(&[
    Group::AtMostOne(&["httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName"]),
    Group::AtMostOne(&["ringHash", "maglev"]),
]);

static COOKIE: Shape = Shape::new(&[
    field("name", TEXT, "Name of the cookie.").required(),
    field("path", TEXT, "Path of a cookie that is set."),
    field("ttl", DURATION_OR_ZERO, "Lifetime of a cookie that is set; 0s for the browser's session."),
    field("attributes", objects(&COOKIE_ATTRIBUTE), "Further attributes of a cookie that is set."),
]);

static COOKIE_ATTRIBUTE: Shape = Shape::new(&[
    field("name", TEXT, "Name of the attribute.").required(),
    field("value", TEXT, "Its value, if it has one."),
]);

static RING_HASH: Shape = Shape::new(&[field("minimumRingSize", integer(0, i64::MAX), "Fewest points on the ring.")]);

static MAGLEV: Shape =
    Shape::new(&[field("tableSize", integer(0, i64::MAX), "Entries of the table: a prime below 5,000,011.")]);

static LOCALITY: Shape = Shape::new(&[
    field("distribute", objects(&DISTRIBUTE), "Shares of other localities, by the client's own."),
    field("failover", objects(&FAILOVER), "Which region takes over from which."),
    field("failoverPriority", TEXTS, "Labels by which endpoints are preferred, most important first."),
    field("enabled", BOOLEAN, "Whether localities count; the mesh's setting if left out.").nullable(),
]);

static DISTRIBUTE: Shape = Shape::new(&[
    field("from", TEXT, "The client's locality: region/zone/subzone, the rest as *."),
    field("to", map(&UINT32), "Percent by locality; they add up to 100."),
]);

static FAILOVER: Shape =
    Shape::new(&[field("from", TEXT, "The region that fails."), field("to", TEXT, "The region that takes over.")]);

static WARMUP: Shape = Shape::new(&[
    field("duration", DURATION, "How long it takes.").required(),
    field("minimumPercent", number(0.0, 100.0), "What a new endpoint begins with.").nullable(),
    field("aggression", Type::Number { least: Some(0.0), most: None }, "How quickly it gets more; 1 is even.")
        .nullable(),
]);

static TCP_POOL: Shape = Shape::new(&[
    field("maxConnections", INT32, "Most connections to the service."),
    field("connectTimeout", DURATION, "How long a connection may take to come up."),
    field("tcpKeepalive", object(&KEEPALIVE), "Probes on connections that are silent."),
    field("maxConnectionDuration", DURATION, "How long a connection may live."),
    field("idleTimeout", DURATION_OR_ZERO, "How long a connection may be silent; 0s for ever."),
]);

static KEEPALIVE: Shape = Shape::new(&[
    field("probes", UINT32, "Probes without an answer until the connection counts as lost."),
    field("time", DURATION, "Silence before the first probe."),
    field("interval", DURATION, "Time between probes."),
]);

static HTTP_POOL: Shape = Shape::new(&[
    field("http1MaxPendingRequests", INT32, "Most requests that wait for a connection."),
    field("http2MaxRequests", INT32, "Most requests under way."),
    field("maxRequestsPerConnection", INT32, "Requests after which a connection is not used again."),
    field("maxRetries", INT32, "Most retries under way."),
    field("idleTimeout", DURATION, "How long a connection may have no request."),
    field(
        "h2UpgradePolicy",
        Type::Choice(&["DEFAULT", "DO_NOT_UPGRADE", "UPGRADE"]),
        "Whether HTTP/1.1 is carried on as HTTP/2.",
    ),
    field("useClientProtocol", BOOLEAN, "Whether the client's protocol is kept."),
    field("maxConcurrentStreams", INT32, "Most streams of one HTTP/2 connection."),
]);

static OUTLIER_DETECTION: Shape = Shape::new(&[
    field("consecutiveErrors", INT32, "Errors until an endpoint is left out.").deprecated("consecutive5xxErrors"),
    field("splitExternalLocalOriginErrors", BOOLEAN, "Whether failures to connect are counted apart from answers."),
    field("consecutiveLocalOriginFailures", UINT32, "Failures to connect until an endpoint is left out.").nullable(),
    field("consecutiveGatewayErrors", UINT32, "Answers 502, 503 or 504 until an endpoint is left out.").nullable(),
    field("consecutive5xxErrors", UINT32, "Answers 5xx until an endpoint is left out.").nullable(),
    field("interval", DURATION, "Time between two looks."),
    field("baseEjectionTime", DURATION, "How long an endpoint is left out, times how often it was."),
    field("maxEjectionPercent", INT32, "Most endpoints that are left out, in percent."),
    field("minHealthPercent", INT32, "Share of healthy endpoints below which none is left out."),
]);

static CLIENT_TLS: Shape = Shape::new(&[
    field("mode", Type::Choice(&["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"]), "Whether and how TLS is spoken."),
    field("clientCertificate", TEXT, "File with the client's certificate, for MUTUAL."),
    field("privateKey", TEXT, "File with the client's key, for MUTUAL."),
    field("caCertificates", TEXT, "File with the authorities that the server's certificate has to come from."),
    field("credentialName", TEXT, "Secret with certificates and key, in place of files."),
    field("subjectAltNames", TEXTS, "Names of which the server's certificate has to have one."),
    field("sni", TEXT, "Name that is sent in the handshake."),
    field("insecureSkipVerify", BOOLEAN, "Takes any certificate.").nullable(),
    field("caCrl", TEXT, "File with certificates that were revoked."),
]);

static TUNNEL: Shape = Shape::new(&[
    field("protocol", TEXT, "CONNECT or POST; CONNECT if left out."),
    field("targetHost", TEXT, "Where the tunnel's other end connects to.").required(),
    field("targetPort", UINT32, "Port that the tunnel's other end connects to.").required(),
]);

static PROXY_PROTOCOL: Shape = Shape::new(&[field("version", Type::Choice(&["V1", "V2"]), "Form of the header.")]);

static RETRY_BUDGET: Shape = Shape::new(&[
    field("percent", number(0.0, 100.0), "Share of requests under way that may be retries.").nullable(),
    field("minRetryConcurrency", UINT32, "Retries that are allowed in any case."),
]);
