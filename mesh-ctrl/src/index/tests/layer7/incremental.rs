use super::super::incremental::objects;
use super::*;
use crate::source::Event;

fn world() -> (Index, Published) {
    let rules = "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: web, namespace: shop}, spec: {host: web, subsets: [{name: v1, labels: {version: v1}}]}}";
    built(&[WORLD, rules].concat())
}

/// What comes of a change: changed resources, and units that were built.
fn cost(index: &mut Index, yaml: &str) -> (Vec<Arc<str>>, u64) {
    let before = index.work();
    let changes = index.apply(manifest("t", yaml));
    (changes.into_iter().map(|change| change.name).collect(), index.work() - before)
}

#[test]
fn a_pod_that_has_nothing_to_do_with_a_service_does_not_cost_its_model() {
    let (mut index, _) = world();
    let pod = |labels: &str, phase: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p, namespace: shop, labels: {{{labels}}}}}, status: {{podIP: 10.0.0.7, phase: {phase}}}}}"
        )
    };
    let (changed, built) = cost(&mut index, &pod("app: other", "Running"));
    assert_eq!((changed, built), (vec!["c1//Pod/shop/p".into()], 1));
    // One of the service's: its pod and the model, in which the subset has a member more.
    let (changed, built) = cost(&mut index, &pod("app: web, version: v1", "Running"));
    assert_eq!(changed.len(), 2, "{changed:?}");
    assert_eq!(built, 2);
    // Its status is no matter of the model's.
    let (changed, built) = cost(&mut index, &pod("app: web, version: v1", "Failed"));
    assert_eq!((changed.len(), built), (1, 1));
    // A rule that is written again, with a status, is the same rule.
    let rule = "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: web, namespace: shop}, spec: {hosts: [web], http: [{route: [{destination: {host: web}}]}]}}";
    assert_eq!(cost(&mut index, rule).0.len(), 1);
    assert_eq!(cost(&mut index, &rule.replace("}]}]}}", "}]}]}, status: {conditions: []}}")), (vec![], 0));
    // A rule for another service leaves this one alone.
    let other = "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: api, namespace: shop}, spec: {hosts: [api], http: [{route: [{destination: {host: api, port: {number: 80}}}]}]}}";
    let (changed, _) = cost(&mut index, other);
    assert!(changed.is_empty(), "{changed:?}");
}

#[test]
fn a_model_goes_with_the_label_and_comes_with_it() {
    let (mut index, mut published) = world();
    let name = "shop/wp/shop/web.shop.svc.cluster.local";
    assert!(published.layer7.contains_key(name));
    let namespace =
        |labels: &str| format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: shop, labels: {{{labels}}}}}}}");
    published.take(index.apply(manifest("t", &namespace(""))));
    assert!(published.layer7.is_empty());
    published.take(index.apply(manifest("t", &namespace("istio.io/use-waypoint: wp"))));
    assert!(published.layer7.contains_key(name));
    let service =
        objects(WORLD).iter().map(crate::object::Object::key).find(|key| key.to_string() == "Service shop/web");
    published.take(index.apply(vec![Event::Delete(service.unwrap())]));
    assert!(published.layer7.is_empty());
}
