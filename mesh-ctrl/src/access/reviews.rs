//! Asks the API server whose a service-account token is (TokenReview).
//!
//! Its answer counts for the audience that we name alone: the token that every pod has by default was made for the API
//! server, and whoever got hold of one is no agent by it. Only an agent's account speaks for a node, because any pod may have
//! a token with any audience put into it; whose pod that is, is all that such a token says.

use std::collections::{BTreeSet, HashMap};
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client};
use serde::Deserialize;
use thiserror::Error;
use tracing::{debug, warn};

use super::{Bearer, Refusal};

/// What agents' tokens are made for.
const AUDIENCE: &str = "istio-ca";
/// How long an answer is believed: a burst of certificate requests is one review, and a token that was withdrawn (its pod
/// deleted) is refused soon.
const BELIEVED: Duration = Duration::from_secs(10);
/// Longest life of a stream on one showing of a token. A stream ends then, and its agent goes on where it was.
const SHOWN_AGAIN: Duration = Duration::from_secs(1800);
/// Longest wait for the API server.
const PATIENCE: Duration = Duration::from_secs(10);
/// Answers kept; beyond it those that are no longer believed go.
const KEPT: usize = 4096;
/// Longest token that is passed on; those of service accounts have 1 to 2 KiB.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// A service account, as `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Account {
    namespace: String,
    name: String,
}

#[derive(Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no service account as namespace/name")]
pub struct InvalidAccount(String);

impl Account {
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

impl FromStr for Account {
    type Err = InvalidAccount;

    fn from_str(text: &str) -> Result<Self, InvalidAccount> {
        match text.trim().split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err(InvalidAccount(text.to_owned())),
        }
    }
}

pub struct Reviews {
    client: Client,
    agents: BTreeSet<Account>,
    answers: Mutex<HashMap<[u8; 32], Answer>>,
}

#[derive(Clone)]
struct Answer {
    shown: Result<Shown, Refusal>,
    at: Instant,
}

/// A token that the API server takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) whose: Whose,
    pub(super) until: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// An agent's, for the node of its pod.
    Node(Arc<str>),
    /// Of some pod with an account of its own.
    Pod(Bearer),
}

/// What the API server says of a token that it takes.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    OnNode(String),
    /// The API server does not say the node (before Kubernetes 1.32 it need not): ask for the pod.
    OfPod {
        namespace: String,
        name: String,
        uid: String,
    },
    /// No agent's.
    Other(Bearer),
}

impl std::fmt::Debug for Reviews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reviews").field("agents", &self.agents).finish_non_exhaustive()
    }
}

impl Reviews {
    /// `agents` are the service accounts whose tokens speak for the node of their pod.
    pub fn new(client: Client, agents: BTreeSet<Account>) -> Self {
        Self { client, agents, answers: Mutex::default() }
    }

    pub(super) async fn caller(&self, token: &str) -> Result<Shown, Refusal> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Refusal::UnknownToken);
        }
        let key = sha256(token);
        let now = Instant::now();
        let known = self.answers.lock().unwrap_or_else(|e| e.into_inner()).get(&key).cloned();
        if let Some(answer) = known.filter(|answer| now.duration_since(answer.at) < BELIEVED) {
            return answer.shown;
        }
        let shown = self.ask(token).await;
        if shown != Err(Refusal::Unanswered) {
            let mut answers = self.answers.lock().unwrap_or_else(|e| e.into_inner());
            if answers.len() >= KEPT {
                answers.retain(|_, answer| now.duration_since(answer.at) < BELIEVED);
            }
            // A flood of wrong tokens is not remembered beyond that.
            if answers.len() < KEPT {
                answers.insert(key, Answer { shown: shown.clone(), at: now });
            }
        }
        shown
    }

    async fn ask(&self, token: &str) -> Result<Shown, Refusal> {
        let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![AUDIENCE.to_owned()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let status = answered("review a token", reviews.create(&PostParams::default(), &review)).await?;
        let until = Instant::now() + SHOWN_AGAIN;
        let node = match judge(&status.status.unwrap_or_default(), &self.agents, token, SystemTime::now())? {
            Verdict::OnNode(node) => node,
            Verdict::Other(bearer) => return Ok(Shown { whose: Whose::Pod(bearer), until }),
            Verdict::OfPod { namespace, name, uid } => {
                let pods: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
                let pod = answered("get an agent's pod", pods.get_opt(&name)).await?;
                // Another pod may have its name by now.
                let pod = pod.filter(|pod| pod.metadata.uid.as_deref() == Some(&uid));
                pod.and_then(|pod| pod.spec?.node_name).filter(|node| !node.is_empty()).ok_or(Refusal::Unbound)?
            }
        };
        Ok(Shown { whose: Whose::Node(node.into()), until })
    }
}

async fn answered<T>(what: &'static str, call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Refusal> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => {
            warn!(what, %error, "the API server refuses");
            Err(Refusal::Unanswered)
        }
        Err(_) => {
            warn!(what, after = ?PATIENCE, "the API server does not answer");
            Err(Refusal::Unanswered)
        }
    }
}

/// Which node's agent a token is, by what the API server says of it.
fn judge(
    status: &TokenReviewStatus,
    agents: &BTreeSet<Account>,
    token: &str,
    now: SystemTime,
) -> Result<Verdict, Refusal> {
    let audiences = status.audiences.as_deref().unwrap_or_default();
    if status.authenticated != Some(true) {
        debug!(error = status.error, "token refused by the API server");
        return Err(diagnosis(token, now));
    }
    // An API server that does not know of audiences answers for its own.
    if !audiences.iter().any(|audience| audience == AUDIENCE) {
        return Err(Refusal::Audience);
    }
    let user = status.user.as_ref().ok_or(Refusal::Account)?;
    let name = user.username.as_deref().and_then(|name| name.strip_prefix("system:serviceaccount:"));
    let (namespace, name) = name.and_then(|name| name.split_once(':')).ok_or(Refusal::Account)?;
    let account = Account { namespace: namespace.to_owned(), name: name.to_owned() };
    let extra = |key: &str| {
        let values = user.extra.as_ref()?.get(&format!("authentication.kubernetes.io/{key}"))?;
        values.first().filter(|value| !value.is_empty()).cloned()
    };
    if !agents.contains(&account) {
        return match (extra("pod-name"), extra("pod-uid")) {
            (Some(pod), Some(uid)) => Ok(Verdict::Other(Bearer { account, pod, uid })),
            _ => Err(Refusal::Unbound),
        };
    }
    match (extra("pod-name"), extra("pod-uid"), extra("node-name")) {
        (Some(_), Some(_), Some(node)) => Ok(Verdict::OnNode(node)),
        (Some(name), Some(uid), None) => Ok(Verdict::OfPod { namespace: account.namespace, name, uid }),
        _ => Err(Refusal::Unbound),
    }
}

/// Why a token was refused, by what it says of itself: for people alone, as nothing of it is proven.
fn diagnosis(token: &str, now: SystemTime) -> Refusal {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audiences {
        One(String),
        Many(Vec<String>),
    }
    #[derive(Deserialize)]
    struct Claims {
        aud: Option<Audiences>,
        exp: Option<f64>,
    }
    let claims = token.split('.').nth(1).and_then(|part| BASE64_URL_SAFE_NO_PAD.decode(part).ok());
    let Some(claims) = claims.and_then(|json| serde_json::from_slice::<Claims>(&json).ok()) else {
        return Refusal::UnknownToken;
    };
    let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64());
    let ours = match claims.aud {
        Some(Audiences::One(audience)) => audience == AUDIENCE,
        Some(Audiences::Many(audiences)) => audiences.iter().any(|audience| audience == AUDIENCE),
        None => false,
    };
    match claims.exp {
        Some(end) if end <= now => Refusal::Expired,
        _ if !ours => Refusal::Audience,
        _ => Refusal::UnknownToken,
    }
}

fn sha256(token: &str) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    out
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const AGENT: &str = "system:serviceaccount:weft-system:weft-node";

    fn judged(status: Value) -> Result<Verdict, Refusal> {
        let agents = BTreeSet::from(["weft-system/weft-node".parse().unwrap()]);
        judge(&serde_json::from_value(status).unwrap(), &agents, "no token", SystemTime::now())
    }

    fn bound(user: &str, extra: Value) -> Value {
        json!({"authenticated": true, "audiences": [AUDIENCE], "user": {"username": user, "extra": extra}})
    }

    fn extra(pairs: &[(&str, &str)]) -> Value {
        pairs.iter().map(|(key, value)| (format!("authentication.kubernetes.io/{key}"), json!([value]))).collect()
    }

    #[test]
    fn an_agents_token_speaks_for_the_node_of_its_pod() {
        let on_node = extra(&[("pod-name", "weft-node-x"), ("pod-uid", "1"), ("node-name", "a")]);
        assert_eq!(judged(bound(AGENT, on_node)), Ok(Verdict::OnNode("a".to_owned())));
        let of_pod = Verdict::OfPod { namespace: "weft-system".into(), name: "weft-node-x".into(), uid: "1".into() };
        assert_eq!(judged(bound(AGENT, extra(&[("pod-name", "weft-node-x"), ("pod-uid", "1")]))), Ok(of_pod));
    }

    #[test]
    fn whatever_lacks_in_an_answer_refuses() {
        let whole = extra(&[("pod-name", "p"), ("pod-uid", "1"), ("node-name", "a")]);
        let mut other = bound(AGENT, whole.clone());
        other["audiences"] = json!(["https://kubernetes.default.svc"]);
        assert_eq!(judged(other.clone()), Err(Refusal::Audience));
        other.as_object_mut().unwrap().remove("audiences");
        assert_eq!(judged(other), Err(Refusal::Audience));
        for user in ["system:serviceaccount:weft-system", "admin", ""] {
            assert_eq!(judged(bound(user, whole.clone())), Err(Refusal::Account), "{user}");
        }
        assert_eq!(judged(bound(AGENT, json!({}))), Err(Refusal::Unbound));
        // A token bound to a node alone is nobody's pod.
        assert_eq!(judged(bound(AGENT, extra(&[("node-name", "a")]))), Err(Refusal::Unbound));
        assert_eq!(judged(json!({"authenticated": false, "error": "no"})), Err(Refusal::UnknownToken));
        assert_eq!(judged(json!({})), Err(Refusal::UnknownToken));
    }

    #[test]
    fn another_accounts_token_speaks_for_its_pod_alone() {
        const WEB: &str = "system:serviceaccount:shop:web";
        let whole = extra(&[("pod-name", "web-1"), ("pod-uid", "1"), ("node-name", "a")]);
        let bearer = Bearer { account: "shop/web".parse().unwrap(), pod: "web-1".into(), uid: "1".into() };
        assert_eq!(judged(bound(WEB, whole)), Ok(Verdict::Other(bearer)));
        assert_eq!(judged(bound(WEB, json!({}))), Err(Refusal::Unbound));
    }

    #[test]
    fn a_refused_token_tells_people_why_by_its_own_claims() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let told = |claims: Value| {
            let part = BASE64_URL_SAFE_NO_PAD.encode(claims.to_string());
            diagnosis(&format!("e30.{part}.sig"), now)
        };
        assert_eq!(told(json!({"aud": [AUDIENCE], "exp": 999})), Refusal::Expired);
        assert_eq!(told(json!({"aud": ["api"], "exp": 2000})), Refusal::Audience);
        assert_eq!(told(json!({"aud": AUDIENCE, "exp": 2000})), Refusal::UnknownToken);
        assert_eq!(told(json!(7)), Refusal::UnknownToken);
        for token in ["", ".", "a.b.c", "..", "a.!!.c"] {
            assert_eq!(diagnosis(token, now), Refusal::UnknownToken, "{token}");
        }
    }

    #[test]
    fn an_account_is_a_namespace_and_a_name() {
        assert!("weft-system/weft-node".parse::<Account>().is_ok());
        for text in ["", "weft-node", "/a", "a/", "a/b/c"] {
            assert!(text.parse::<Account>().is_err(), "{text}");
        }
    }
}
