use std::sync::atomic::AtomicUsize;

use rcgen::{CertificateParams, CertificateSigningRequestParams, IsCa, Issuer};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

/// An authority whose every trait a test can turn.
#[derive(Default)]
struct Fake {
    roots: Mutex<Vec<Root>>,
    down: Mutex<bool>,
    /// Added to the wall clock of the authority.
    ahead: Mutex<Duration>,
    calls: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    wrong_identity: Mutex<bool>,
}

struct Root {
    issuer: Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Root {
    fn new(name: &str) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }
}

impl Fake {
    fn new() -> Arc<Self> {
        let fake = Self::default();
        fake.roots.lock().unwrap().push(Root::new("first"));
        Arc::new(fake)
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

/// Wall time that moves with tokio's.
fn clock() -> Clock {
    let (started, origin) = (Instant::now(), SystemTime::now());
    Arc::new(move || origin + started.elapsed())
}

struct Signing(Arc<Fake>, Clock);

impl Signer for Signing {
    async fn sign(&self, csr: String, identity: &SpiffeId, ttl: Duration) -> Result<Vec<String>, CaError> {
        let fake = &self.0;
        fake.calls.fetch_add(1, Ordering::SeqCst);
        let now = fake.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        fake.most_at_once.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(50)).await;
        fake.at_once.fetch_sub(1, Ordering::SeqCst);
        if *fake.down.lock().unwrap() {
            return Err(CaError::Unavailable { address: "ca:1".to_owned(), message: "down".to_owned() });
        }
        let mut request = CertificateSigningRequestParams::from_pem(&csr).unwrap();
        assert!(format!("{:?}", request.params.subject_alt_names).contains(identity.uri()));
        if *fake.wrong_identity.lock().unwrap() {
            let other = rcgen::string::Ia5String::try_from("spiffe://td/ns/other/sa/other").unwrap();
            request.params.subject_alt_names = vec![rcgen::SanType::URI(other)];
        }
        let now = (self.1)() + *fake.ahead.lock().unwrap();
        request.params.not_before = now.into();
        request.params.not_after = (now + ttl).into();
        let roots = fake.roots.lock().unwrap();
        let root = roots.last().unwrap();
        Ok(vec![request.signed_by(&root.issuer).unwrap().pem(), root.pem.clone()])
    }
}

fn start(fake: &Arc<Fake>, change: impl FnOnce(&mut Config)) -> Certificates {
    let clock = clock();
    let mut config = Config { ttl: 24 * HOUR, clock: clock.clone(), ..Config::default() };
    change(&mut config);
    Certificates::start(config, Signing(fake.clone(), clock))
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::new("td", "shop", account).unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

async fn pass(duration: Duration) {
    tokio::time::sleep(duration).await;
}

fn serial(lease: &Lease) -> Option<String> {
    lease.current().map(|c| c.svid().serial_hex.clone())
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_renewed_around_half_its_life_with_another_key() {
    let fake = Fake::new();
    let certificates = start(&fake, |_| {});
    let lease = certificates.lease(&id("web"));
    assert!(lease.current().is_none());
    assert_eq!(lease.status().state, State::Initializing);
    let first = lease.ready(soon()).await.unwrap();
    assert_eq!(first.svid().identity, id("web"));
    pass(10 * HOUR).await;
    assert_eq!(fake.calls(), 1);
    pass(4 * HOUR).await;
    assert_eq!(fake.calls(), 2);
    let second = lease.current().unwrap();
    assert_ne!(first.svid().serial_hex, second.svid().serial_hex);
    assert_ne!(first.svid().chain, second.svid().chain);
    assert_eq!(lease.status().state, State::Available);
}

#[tokio::test(start_paused = true)]
async fn while_the_authority_is_down_the_old_certificate_serves_until_it_is_over() {
    let fake = Fake::new();
    let certificates = start(&fake, |_| {});
    let lease = certificates.lease(&id("web"));
    lease.ready(soon()).await.unwrap();
    let first = serial(&lease);
    *fake.down.lock().unwrap() = true;
    pass(23 * HOUR).await;
    assert_eq!(serial(&lease), first);
    let status = lease.status();
    assert_eq!(status.state, State::Available);
    assert_eq!(status.last_error.as_deref(), Some("ask the authority at ca:1: down"));

    pass(2 * HOUR).await;
    assert_eq!(serial(&lease), None);
    assert_eq!(lease.status().state, State::Expired);
    let error = lease.ready(Instant::now()).await.err().unwrap();
    assert_eq!(error.reason(), "certificate_expired");

    *fake.down.lock().unwrap() = false;
    lease.ready(Instant::now() + Duration::from_secs(60)).await.unwrap();
    assert_eq!(lease.status().state, State::Available);
    assert_eq!(lease.status().last_error, None);
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_is_down_at_the_start_is_asked_again_with_growing_waits() {
    let fake = Fake::new();
    *fake.down.lock().unwrap() = true;
    let certificates = start(&fake, |_| {});
    let lease = certificates.lease(&id("web"));
    let error = lease.ready(Instant::now() + Duration::from_secs(3)).await.err().unwrap();
    assert_eq!(error.reason(), "certificate_not_ready");
    assert!(error.to_string().contains("down"), "{error}");
    assert_eq!(lease.status().state, State::Failed);
    pass(HOUR).await;
    let calls = fake.calls();
    assert!((120..=260).contains(&calls), "{calls} calls in an hour, with waits of 15 to 30 s");
    *fake.down.lock().unwrap() = false;
    lease.ready(Instant::now() + Duration::from_secs(31)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_last_lease_forgets_the_identity_and_asks_no_more() {
    let fake = Fake::new();
    let certificates = start(&fake, |_| {});
    let (one, two) = (certificates.lease(&id("web")), certificates.lease(&id("web")));
    one.ready(soon()).await.unwrap();
    assert_eq!(fake.calls(), 1, "one request for both leases");
    assert_eq!(certificates.status()[0].leases, 2);
    drop(one);
    let credentials = Arc::downgrade(&two.current().unwrap());
    let mut watch = two.watch();
    watch.mark_unchanged();
    drop(two);
    assert!(certificates.status().is_empty());
    pass(48 * HOUR).await;
    assert_eq!(fake.calls(), 1);
    assert!(watch.changed().await.is_err(), "the keeper is gone");
    drop(watch);
    assert!(credentials.upgrade().is_none(), "nobody holds the key");
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_identities_asks_for_each_once_and_few_at_a_time() {
    let fake = Fake::new();
    let certificates = start(&fake, |_| {});
    let leases: Vec<_> = (0..200).map(|n| certificates.lease(&id(&format!("sa-{n}")))).collect();
    for lease in &leases {
        lease.ready(Instant::now() + Duration::from_secs(60)).await.unwrap();
    }
    assert_eq!(fake.calls(), 200);
    assert_eq!(fake.most_at_once.load(Ordering::SeqCst), 16);
    assert_eq!(certificates.status().len(), 200);
}

#[tokio::test(start_paused = true)]
async fn during_a_rotation_the_old_root_stays_trusted_and_then_goes() {
    let fake = Fake::new();
    let certificates = start(&fake, |_| {});
    let (web, db) = (certificates.lease(&id("web")), certificates.lease(&id("db")));
    let old = web.ready(soon()).await.unwrap();
    db.ready(soon()).await.unwrap();
    assert_eq!(old.trust().roots().len(), 1);

    fake.roots.lock().unwrap().push(Root::new("second"));
    let mut seen = db.watch();
    seen.mark_unchanged();
    let late = certificates.lease(&id("late"));
    late.ready(soon()).await.unwrap();
    // Whoever holds a certificate of the old root trusts the new one at once.
    seen.changed().await.unwrap();
    let both = db.current().unwrap();
    assert_eq!(both.trust().roots().len(), 2);
    assert_eq!(both.trust().fingerprint(), web.current().unwrap().trust().fingerprint());

    pass(60 * HOUR).await;
    let after = web.current().unwrap();
    assert_eq!(after.trust().roots().len(), 1);
    assert_ne!(after.trust().fingerprint(), old.trust().fingerprint());
}

#[tokio::test(start_paused = true)]
async fn roots_of_a_file_are_taken_up_when_it_changes_and_a_broken_file_changes_nothing() {
    let fake = Fake::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("roots.pem");
    std::fs::write(&path, Root::new("partner").pem).unwrap();
    let certificates = start(&fake, |config| config.extra_roots = Some(path.clone()));
    let lease = certificates.lease(&id("web"));
    let credentials = lease.ready(soon()).await.unwrap();
    assert_eq!(credentials.trust().roots().len(), 2);
    let two = Root::new("partner 2").pem + &Root::new("partner 3").pem;
    std::fs::write(&path, two).unwrap();
    pass(2 * POLL).await;
    assert_eq!(lease.current().unwrap().trust().roots().len(), 3);
    std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----").unwrap();
    pass(2 * POLL).await;
    assert_eq!(lease.current().unwrap().trust().roots().len(), 3);
    std::fs::remove_file(&path).unwrap();
    pass(2 * POLL).await;
    assert_eq!(lease.current().unwrap().trust().roots().len(), 3);
    assert_eq!(fake.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_of_the_future_is_used_at_once_only_if_there_is_no_other() {
    let fake = Fake::new();
    *fake.ahead.lock().unwrap() = HOUR;
    let certificates = start(&fake, |_| {});
    let lease = certificates.lease(&id("web"));
    lease.ready(soon()).await.unwrap();
    let first = serial(&lease);
    assert!(lease.status().last_error.unwrap().contains("clocks differ"));

    *fake.ahead.lock().unwrap() = 6 * HOUR;
    pass(14 * HOUR).await;
    assert_eq!(fake.calls(), 2);
    assert_eq!(serial(&lease), first, "the new one waits until it is valid");
    pass(7 * HOUR).await;
    assert_ne!(serial(&lease), first);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_is_over_or_of_somebody_else_is_refused() {
    let fake = Fake::new();
    *fake.wrong_identity.lock().unwrap() = true;
    let certificates = start(&fake, |_| {});
    let lease = certificates.lease(&id("web"));
    let error = lease.ready(soon()).await.err().unwrap().to_string();
    assert!(error.contains("spiffe://td/ns/other/sa/other"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn short_lived_certificates_never_leave_a_gap() {
    let fake = Fake::new();
    let certificates = start(&fake, |config| config.ttl = Duration::from_secs(10));
    let lease = certificates.lease(&id("web"));
    lease.ready(soon()).await.unwrap();
    for _ in 0..600 {
        pass(Duration::from_secs(1)).await;
        assert!(lease.current().is_some());
    }
    assert!((100..=200).contains(&fake.calls()), "{}", fake.calls());
}
