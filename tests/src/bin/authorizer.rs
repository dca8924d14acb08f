//! An authorizer as the reference's proxy asks it (`envoy.service.auth.v3.Authorization/Check`), with no more of its messages than is
//! needed here: a request whose header `x-pass` is `yes` may pass and is told who let it. Runs inside pods.

use std::collections::HashMap;

use anyhow::Result;
use prost::Message;
use weft_tests::unary::{self, Method};

#[derive(Clone, PartialEq, Message)]
struct CheckRequest {
    #[prost(message, optional, tag = "1")]
    attributes: Option<Attributes>,
}

#[derive(Clone, PartialEq, Message)]
struct Attributes {
    #[prost(message, optional, tag = "4")]
    request: Option<Asked>,
}

#[derive(Clone, PartialEq, Message)]
struct Asked {
    #[prost(message, optional, tag = "2")]
    http: Option<HttpRequest>,
}

#[derive(Clone, PartialEq, Message)]
struct HttpRequest {
    #[prost(map = "string, string", tag = "3")]
    headers: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct CheckResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<Code>,
    #[prost(message, optional, tag = "2")]
    denied: Option<Denied>,
    #[prost(message, optional, tag = "3")]
    allowed: Option<Allowed>,
}

/// `google.rpc.Status`, and Envoy's `HttpStatus`.
#[derive(Clone, PartialEq, Message)]
struct Code {
    #[prost(int32, tag = "1")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Denied {
    #[prost(message, optional, tag = "1")]
    status: Option<Code>,
    #[prost(string, tag = "3")]
    body: String,
}

#[derive(Clone, PartialEq, Message)]
struct Allowed {
    #[prost(message, repeated, tag = "2")]
    headers: Vec<HeaderOption>,
}

#[derive(Clone, PartialEq, Message)]
struct HeaderOption {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
}

#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

fn main() -> Result<()> {
    unary::main::<Check>()
}

struct Check;

impl Method for Check {
    const SERVICE: &'static str = "envoy.service.auth.v3.Authorization";
    type Asked = CheckRequest;
    type Answer = CheckResponse;

    fn answer(asked: CheckRequest) -> CheckResponse {
        let http = asked.attributes.and_then(|all| all.request).and_then(|asked| asked.http);
        let passes = http.is_some_and(|http| http.headers.get("x-pass").is_some_and(|value| value == "yes"));
        let header = Header { key: "x-let-in-by".to_owned(), value: "authorizer".to_owned() };
        match passes {
            true => CheckResponse {
                status: Some(Code { code: 0 }),
                denied: None,
                allowed: Some(Allowed { headers: vec![HeaderOption { header: Some(header) }] }),
            },
            false => CheckResponse {
                status: Some(Code { code: 7 }),
                denied: Some(Denied { status: Some(Code { code: 451 }), body: "not without a pass".to_owned() }),
                allowed: None,
            },
        }
    }
}
