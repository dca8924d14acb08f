//! Pages with Bookinfo: which version answers whom, faults and timeouts, and who may ask what.

use anyhow::Result;
use weft_tests::needs;

use super::page::{Ask, Page, get, turn};
use super::stage::{App, Serves, Stage};

const fn app(app: &'static str, version: &'static str, account: &'static str, node: &'static str) -> App {
    App { app, version, namespace: "default", account, node, serves: Serves::Http(9080) }
}

const APPS: [App; 7] = [
    App { app: "curl", version: "", namespace: "default", account: "curl", node: "a", serves: Serves::Nothing },
    app("productpage", "v1", "bookinfo-productpage", "a"),
    app("details", "v1", "bookinfo-details", "b"),
    app("reviews", "v1", "bookinfo-reviews", "b"),
    app("reviews", "v2", "bookinfo-reviews", "b"),
    app("reviews", "v3", "bookinfo-reviews", "b"),
    app("ratings", "v1", "bookinfo-ratings", "b"),
];

fn reviews(path: &str) -> Ask {
    get(PRODUCTPAGE, &format!("http://reviews:9080{path}"))
}

fn ratings(path: &str) -> Ask {
    get("reviews-v1", &format!("http://ratings:9080{path}"))
}

fn jason(ask: Ask) -> Ask {
    ask.header("end-user: jason")
}

fn routing() -> Vec<Page> {
    let jason_sees_another = |page: Page| {
        page.ask(reviews("/reviews/0").by(&["reviews-v1"]).times(5))
            .ask(reviews("/reviews/0").header("end-user: other").by(&["reviews-v1"]))
            .ask(jason(reviews("/reviews/0")).by(&["reviews-v2"]).times(5))
    };
    let halves = [("reviews-v1", 50), ("reviews-v3", 50)];
    vec![
        Page::of(&["traffic/destination-rules", "traffic/all-v1"])
            .ask(reviews("/reviews/0").by(&["reviews-v1"]).times(10))
            .ask(ratings("/ratings/0").by(&["ratings-v1"])),
        jason_sees_another(Page::of(&["traffic/destination-rules", "traffic/by-user"])),
        jason_sees_another(Page::of(&["traffic/by-user-gateway-api"])),
        Page::of(&["traffic/destination-rules", "traffic/half-v3"]).shares(reviews("/reviews/0"), 400, &halves),
        Page::of(&["traffic/half-v3-gateway-api"]).shares(reviews("/reviews/0"), 400, &halves),
        Page::of(&["traffic/destination-rules", "traffic/all-v3"])
            .ask(reviews("/reviews/0").by(&["reviews-v3"]).times(10)),
    ]
}

fn failing() -> Vec<Page> {
    let short = |page: Page| {
        page.ask(reviews("/reviews/0").by(&["reviews-v2"]))
            .ask(reviews("/reviews/0?delay=2000").status(504).body("upstream request timeout").takes(450, 1200))
    };
    vec![
        Page::of(&["traffic/destination-rules", "traffic/delay"])
            .ask(jason(ratings("/ratings/0")).by(&["ratings-v1"]).takes(1000, 1900))
            .ask(ratings("/ratings/0").by(&["ratings-v1"]).takes(0, 900)),
        Page::of(&["traffic/destination-rules", "traffic/abort"])
            .ask(jason(ratings("/ratings/0")).status(500).body("fault filter abort"))
            .ask(ratings("/ratings/0").by(&["ratings-v1"])),
        short(Page::of(&["traffic/destination-rules", "traffic/timeout"])),
        short(Page::of(&["traffic/timeout-gateway-api"])),
    ]
}

fn shapes() -> Vec<Page> {
    let catalog = |ask: Ask, target| {
        ask.header("x-internal: 1")
            .by(&["reviews-v2"])
            .target(target)
            .sent("host", &["catalog.example.com"])
            .sent("x-tier", &["gold"])
            .sent("x-internal", &[])
            .answers("x-served-for", Some("catalog"))
    };
    let renamed = |page: Page| {
        page.ask(catalog(reviews("/wpcatalog/a?b=1").header("x-tier: none"), "/newcatalog/a?b=1"))
            .ask(reviews("/other").by(&["reviews-v1"]).target("/other").answers("x-served-for", None))
    };
    let moved = || reviews("/v1/getProductRatings?id=1");
    vec![
        renamed(Page::of(&["traffic/destination-rules", "traffic/shapes"]))
            .ask(catalog(reviews("/consumercatalog"), "/newcatalog"))
            .ask(
                moved()
                    .status(302)
                    .answers("location", Some("http://newratings.default.svc.cluster.local/v1/bookRatings?id=1")),
            )
            .ask(reviews("/v1/closed").status(503).body("closed for today"))
            .ask(reviews("/").header("x-route: own").sent("x-route", &["own", "fallback"])),
        renamed(Page::of(&["traffic/shapes-gateway-api"]))
            .ask(moved().status(301).answers("location", Some("https://newratings.example.com/v1/bookRatings?id=1"))),
    ]
}

fn affinity() -> Vec<Page> {
    let stays = |stage: &mut Stage, own: Ask| {
        let first = own.answer(stage)?;
        for _ in 0..5 {
            anyhow::ensure!(own.answer(stage)?.by() == first.by(), "{first:?}");
        }
        Ok(first.by().to_owned())
    };
    vec![
        Page::of(&["traffic/affinity"]).then(move |stage| {
            let users = (0..8).map(|user| stays(stage, reviews("/").header(format!("end-user: u{user}"))));
            let seen: std::collections::BTreeSet<String> = users.collect::<Result<_>>()?;
            anyhow::ensure!(seen.len() > 1, "all users at {seen:?}");
            Ok(())
        }),
        Page::of(&["traffic/affinity-cookie"]).then(move |stage| {
            let first = reviews("/").answer(stage)?;
            let cookie = first.header("set-cookie").unwrap_or_default().to_owned();
            anyhow::ensure!(cookie.starts_with("user=") && cookie.contains("Max-Age=60"), "{first:?}");
            let pair = cookie.split(';').next().unwrap_or_default();
            let by = stays(stage, reviews("/").header(format!("cookie: {pair}")))?;
            anyhow::ensure!(by == first.by(), "{by} after {first:?}");
            Ok(())
        }),
    ]
}

fn viewing() -> Vec<Page> {
    let page = |client| get(client, "http://productpage:9080/productpage");
    let details = |client, path: &str| get(client, &format!("http://details:9080{path}"));
    let of = |client, service: &str| get(client, &format!("http://{service}:9080/{service}/0"));
    vec![
        Page::of(&["security/allow-nothing"])
            .ask(page("curl").status(403).body("RBAC: access denied"))
            .ask(reviews("/reviews/0").status(403)),
        Page::of(&["security/allow-nothing", "security/viewers"])
            .ask(page("curl").by(&[PRODUCTPAGE]))
            .ask(page("curl").method("DELETE").status(403).body("RBAC: access denied"))
            .ask(details(PRODUCTPAGE, "/details/0").by(&["details-v1"]))
            .ask(details(PRODUCTPAGE, "/secrets").status(403))
            .ask(details("curl", "/details/0").status(403))
            .ask(of(PRODUCTPAGE, "reviews").by(&["reviews-v1", "reviews-v2", "reviews-v3"]))
            .ask(of(PRODUCTPAGE, "reviews").method("POST").status(403))
            .ask(of("curl", "reviews").status(403))
            .ask(of("reviews-v2", "ratings").by(&["ratings-v1"]))
            .ask(of(PRODUCTPAGE, "ratings").status(403)),
    ]
}

#[test]
fn bookinfo_does_as_the_pages_say() -> Result<()> {
    needs!("curl");
    let mut stage = Stage::open("tasks-bookinfo", &["a", "b"], "bookinfo", "default", &APPS)?;
    let pages = [routing(), failing(), shapes(), affinity(), viewing()];
    turn(pages.into_iter().flatten(), &mut stage)
}

const PRODUCTPAGE: &str = "productpage-v1";
