//! What all proxies are told alike: hosts, the header that requests must have, and where they lead.

use super::talk::{HEADER, HOSTS};

/// Routes that a proxy has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Routes {
    /// One for each of [`HOSTS`].
    Few,
    /// [`PATHS`] for each of 1,000 hosts; the last of all answers by itself with `status`.
    Many { status: u16 },
}

/// Routes of a host where there are many.
const PATHS: usize = 10;

/// One route: holds for this host with [`HEADER`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) host: String,
    /// A prefix of the path.
    pub(super) path: String,
    /// Instead of going to the backend.
    pub(super) answer: Option<u16>,
}

impl Routes {
    /// Hosts, with the routes of each in the order in which they are tried.
    pub(super) fn hosts(self) -> Vec<(String, Vec<Route>)> {
        let (hosts, paths) = match self {
            Routes::Few => (HOSTS, 1),
            Routes::Many { .. } => (1000, PATHS),
        };
        let host = |number: usize| {
            let host = format!("svc-{number}.shop.test");
            let routes = (0..paths).map(|at| {
                let (is_last, path) = match paths {
                    1 => (false, "/".to_owned()),
                    _ => (number + 1 == hosts && at + 1 == paths, format!("/part-{at}/")),
                };
                let answer = match self {
                    Routes::Many { status } if is_last => Some(status),
                    Routes::Few | Routes::Many { .. } => None,
                };
                Route { host: host.clone(), path, answer }
            });
            (host.clone(), routes.collect())
        };
        (0..hosts).map(host).collect()
    }

    /// A request for the last route, over HTTP/1.1 on a connection of its own.
    pub(super) fn question() -> String {
        let (name, value) = HEADER;
        format!("GET /part-9/x HTTP/1.1\r\nHost: svc-999.shop.test\r\n{name}: {value}\r\nConnection: close\r\n\r\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_many_routes_is_the_one_that_is_asked() {
        let hosts = Routes::Many { status: 418 }.hosts();
        let all: Vec<&Route> = hosts.iter().flat_map(|(_, routes)| routes).collect();
        assert_eq!(all.len(), 10_000);
        let answering: Vec<_> = all.iter().filter(|route| route.answer.is_some()).collect();
        let expected = Route { host: "svc-999.shop.test".into(), path: "/part-9/".into(), answer: Some(418) };
        assert_eq!(answering, [&&expected]);
        assert!(Routes::question().contains("/part-9/") && Routes::question().contains(&expected.host));
    }
}
