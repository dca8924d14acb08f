//! What the API server asks before it keeps an object of Istio's or the Gateway API's: whether it can be put in force.
//!
//! ```text
//! kube-apiserver --AdmissionReview over TLS--> server --> review (pure) --> mesh_analysis::validate
//!                <--allowed, warnings or why not--------- wording
//! leader: bundle --the roots--> ValidatingWebhookConfiguration, so that the API server knows our certificate
//! ```
//! Every replica answers. The ValidatingWebhookConfiguration stands in `deploy/kubernetes/weft.yaml`: whether and for whom
//! it is asked belongs to the cluster's administrator, and a controller that made it would make it again after somebody
//! took it away for good reason. The controller fills in one field of it that nobody else can know.
//!
//! Admission helps those who write objects and guards nothing: with the controller away every object is taken
//! (`failurePolicy: Ignore`), and what cannot be put in force is found when it is read.

mod server;
mod bundle;
mod review;
mod wording;

use std::sync::Arc;

use mesh_analysis::api::Kind;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use rustls::ServerConfig;
use tokio::net::TcpListener;

pub(crate) use bundle::keep;

/// Answers reviews, and counts how they ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Webhook {
    reviews: Family<[(&'static str, &'static str); 3], Counter>,
    trusted: Gauge,
}

/// How a review ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Admitted,
    /// Admitted, with something to say.
    Warned,
    Refused,
    /// Not understood.
    Malformed,
}

impl Webhook {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("weft_admission_reviews", "Objects reviewed for the API server", self.reviews.clone());
        let help =
            "Whether the webhook's configuration has all roots in caBundle, as the leader has seen it; 0 of others";
        registry.register("weft_admission_ca_bundle", help, self.trusted.clone());
    }

    /// For [`keep`].
    pub(crate) fn trusted(&self) -> Gauge {
        self.trusted.clone()
    }

    /// Serves reviews over HTTPS until dropped, with the certificate that `tls` shows.
    pub(crate) async fn serve(self, listener: TcpListener, tls: Arc<ServerConfig>) {
        server::serve(listener, tls, self).await;
    }

    /// The kinds that are counted by name are those of the tables: a caller can make no more of them.
    fn count(&self, kind: Option<&'static Kind>, outcome: Outcome) {
        let (group, kind) = kind.map_or(("", ""), |kind| (kind.group, kind.kind));
        let outcome = match outcome {
            Outcome::Admitted => "admitted",
            Outcome::Warned => "warned",
            Outcome::Refused => "refused",
            Outcome::Malformed => "malformed",
        };
        self.reviews.get_or_create(&[("group", group), ("kind", kind), ("outcome", outcome)]).inc();
    }
}
