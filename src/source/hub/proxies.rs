//! Proxies that the environment names, by the scheme of an address: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, as
//! Python's tools read them.

use ureq::Proxy;
use ureq::http::Uri;

/// A client without a proxy, and one for each scheme that has one, with the variable that names it.
pub struct Proxies<A> {
    direct: A,
    https: Option<(A, &'static str)>,
    http: Option<(A, &'static str)>,
    /// Hosts that are spoken to without a proxy.
    without: Vec<String>,
}

/// A variable in small letters comes before the same in capitals.
fn first_of(names: &[&'static str], variable: &impl Fn(&str) -> Option<String>) -> Option<(String, &'static str)> {
    names.iter().find_map(|name| variable(name).filter(|value| !value.is_empty()).map(|value| (value, *name)))
}

impl<A> Proxies<A> {
    pub fn of_environment(agent: impl Fn(Option<Proxy>) -> A) -> Self {
        Self::of(agent, |name| std::env::var(name).ok())
    }

    fn of(agent: impl Fn(Option<Proxy>) -> A, variable: impl Fn(&str) -> Option<String>) -> Self {
        let through = |names: &[&'static str]| {
            let (value, name) = first_of(names, &variable)?;
            match Proxy::new(&value) {
                Ok(proxy) => Some((agent(Some(proxy)), name)),
                Err(_) => {
                    tracing::warn!("{name} names no proxy that can be used; expected one such as http://host:port");
                    None
                }
            }
        };
        let without = first_of(&["no_proxy", "NO_PROXY"], &variable).map_or(String::new(), |(value, _)| value);
        Self {
            direct: agent(None),
            https: through(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
            http: through(&["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]),
            without: without
                .split(',')
                .map(|host| host.trim().to_lowercase())
                .filter(|host| !host.is_empty())
                .collect(),
        }
    }

    /// The client for an address, and the variable that names its proxy.
    pub fn of_url(&self, url: &str) -> (&A, Option<&'static str>) {
        let uri: Option<Uri> = url.parse().ok();
        let scheme = uri.as_ref().and_then(Uri::scheme_str).unwrap_or_default();
        let host = uri.as_ref().and_then(Uri::host).unwrap_or_default().to_lowercase();
        let port = uri.as_ref().and_then(Uri::port_u16);
        let proxied = if scheme == "https" { &self.https } else { &self.http };
        match proxied {
            Some((agent, name)) if !self.without.iter().any(|entry| names(entry, &host, port)) => (agent, Some(*name)),
            _ => (&self.direct, None),
        }
    }
}

/// Whether an entry of NO_PROXY names a host: itself, or a domain that it is in.
fn names(entry: &str, host: &str, port: Option<u16>) -> bool {
    let (entry, wanted) = match entry.rsplit_once(':').and_then(|(name, port)| Some((name, port.parse::<u16>().ok()?)))
    {
        Some((name, port)) if !name.contains(':') => (name, Some(port)),
        _ => (entry, None),
    };
    if wanted.is_some() && wanted != port {
        return false;
    }
    let domain = entry.trim_start_matches('*').trim_start_matches('.');
    let within = host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    entry == "*" || (!domain.is_empty() && within)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies<String> {
        let variable = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string());
        Proxies::of(|proxy| proxy.map_or("direct".into(), |proxy| proxy.host().to_owned()), variable)
    }

    #[test]
    fn a_scheme_has_its_proxy_and_some_hosts_have_none() {
        let set = proxies(&[
            ("HTTPS_PROXY", "http://one:3128"),
            ("all_proxy", "http://user:word@two:3128"),
            ("NO_PROXY", "localhost, .inner.example,127.0.0.1:8000"),
        ]);
        for (url, agent, variable) in [
            ("https://huggingface.co/x", "one", Some("HTTPS_PROXY")),
            ("http://huggingface.co/x", "two", Some("all_proxy")),
            ("http://localhost:99/x", "direct", None),
            ("https://a.inner.example/x", "direct", None),
            ("https://inner.example/x", "direct", None),
            ("https://dinner.example/x", "one", Some("HTTPS_PROXY")),
            ("http://127.0.0.1:8000/x", "direct", None),
            ("http://127.0.0.1:8001/x", "two", Some("all_proxy")),
        ] {
            assert_eq!(set.of_url(url), (&agent.to_owned(), variable), "{url}");
        }
        let none = proxies(&[("HTTPS_PROXY", "http://one:3128"), ("no_proxy", "*")]);
        assert_eq!(none.of_url("https://huggingface.co").0, "direct");
        assert_eq!(proxies(&[("HTTPS_PROXY", "")]).of_url("https://huggingface.co").0, "direct");
    }
}
