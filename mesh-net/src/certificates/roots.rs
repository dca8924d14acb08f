//! The roots that peers may chain to: those that the authority names, and those of a file.
//!
//! When the authority moves to a new root, peers that have not renewed yet still show certificates of the old one. A root
//! is therefore trusted until every certificate that may have been issued under it is over: one leaf lifetime after the
//! authority last named it. A root that must go at once is taken out by restarting the agent.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::svid::{InvalidTrustBundle, TrustBundle};

pub(super) struct Roots {
    file: Option<PathBuf>,
    state: Mutex<State>,
    bundle: watch::Sender<Option<Arc<TrustBundle>>>,
}

#[derive(Default)]
struct State {
    /// By content, with its PEM text and until when it is trusted.
    named: BTreeMap<Vec<u8>, (String, SystemTime)>,
    of_file: Vec<String>,
    file_text: Option<String>,
}

impl Roots {
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        Self { file, state: Mutex::default(), bundle: watch::channel(None).0 }
    }

    pub(super) fn watch(&self) -> watch::Receiver<Option<Arc<TrustBundle>>> {
        self.bundle.subscribe()
    }

    /// Takes the roots that the authority named with a certificate of lifetime `lifetime`.
    pub(super) fn learn(&self, pem: &str, now: SystemTime, lifetime: Duration) -> Result<(), InvalidTrustBundle> {
        // Refuses the whole text if one root of it cannot be an anchor.
        TrustBundle::from_pem(pem)?;
        let until = now.checked_add(lifetime).unwrap_or(now);
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        for (der, text) in certificates(pem) {
            let (_, known) = state.named.entry(der).or_insert((text, until));
            *known = until.max(*known);
        }
        self.publish(&mut state, now);
        Ok(())
    }

    /// Reads the file again and forgets roots whose time is over.
    pub(super) fn refresh(&self, now: SystemTime) {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        if !state.named.is_empty() {
            self.publish(&mut state, now);
        }
    }

    fn publish(&self, state: &mut State, now: SystemTime) {
        self.read_file(state);
        state.named.retain(|_, (_, until)| *until >= now);
        let pem: String =
            state.named.values().map(|(text, _)| text).chain(&state.of_file).map(String::as_str).collect();
        if pem.is_empty() {
            return;
        }
        let bundle = match TrustBundle::from_pem(&pem) {
            Ok(bundle) => Arc::new(bundle),
            Err(error) => {
                warn!(%error, "roots cannot be combined");
                return;
            }
        };
        self.bundle.send_if_modified(|current| {
            if current.as_ref().is_some_and(|c| c.fingerprint() == bundle.fingerprint()) {
                return false;
            }
            info!(roots = bundle.roots().len(), fingerprint = bundle.fingerprint(), "trust bundle changed");
            *current = Some(bundle);
            true
        });
    }

    /// A file that is missing or wrong leaves what it last said in force.
    fn read_file(&self, state: &mut State) {
        let Some(path) = &self.file else { return };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                warn!(path = %path.display(), %error, "cannot read the file with extra roots");
                return;
            }
        };
        if state.file_text.as_ref() == Some(&text) {
            return;
        }
        match TrustBundle::from_pem(&text) {
            Ok(_) => state.of_file = certificates(&text).into_iter().map(|(_, text)| text).collect(),
            Err(error) => warn!(path = %path.display(), %error, "file with extra roots is left out"),
        }
        state.file_text = Some(text);
    }
}

/// Each certificate of a PEM text, as DER and as a PEM text of its own.
fn certificates(pem: &str) -> Vec<(Vec<u8>, String)> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let mut rest = pem;
    let mut found = Vec::new();
    while let Some(start) = rest.find(BEGIN) {
        let Some(length) = rest[start..].find(END) else { break };
        let text = format!("{}\n", &rest[start..start + length + END.len()]);
        rest = &rest[start + length + END.len()..];
        if let Ok(der) = CertificateDer::from_pem_slice(text.as_bytes()) {
            found.push((der.as_ref().to_vec(), text));
        }
    }
    found
}
