//! Requests to the Hub: whom the token goes to, which redirects are followed, what is tried again.

use std::io::{self, Read};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use ureq::http::{HeaderMap, Uri};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::failure::Failure;
use super::proxies::Proxies;
use super::settings::{HUB, Settings};
use super::watch::{is_interrupted, sleep};

/// Speaks to the Hub, from several threads.
pub struct Client {
    pub settings: Settings,
    agents: Proxies<Agent>,
}

/// What a server answers, but for its body.
pub struct Answer {
    headers: HeaderMap,
    status: u16,
    body: Option<Body>,
}

/// What is asked for.
#[derive(Clone, Copy, PartialEq)]
enum Method {
    Get,
    /// The headers. Where a redirect leads away from the Hub, they are the redirect's own: those say what the file is.
    Head,
}

/// Redirects in a row, as in huggingface_hub.
const REDIRECTS: usize = 20;

/// How often something is tried again that fails in passing, unless it has come further.
const RETRIES: u32 = 5;

/// How often a connection is tried again that cannot be made.
const CONNECTIONS: u32 = 2;

/// What is waited for where a server asks to wait. A window of the Hub's limits is five minutes.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

impl Answer {
    /// A header, where it is there and a text.
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name)?.to_str().ok().map(str::to_owned)
    }

    /// The status: a success.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Whether it is the part of a file that begins with this byte.
    pub fn is_part_from(&self, start: u64) -> bool {
        let begins = || {
            let range = self.header("content-range")?;
            range.strip_prefix("bytes ")?.split('-').next()?.trim().parse::<u64>().ok()
        };
        self.status == 206 && begins() == Some(start)
    }

    pub fn into_reader(self) -> Box<dyn Read> {
        self.body.map_or_else(|| Box::new(io::empty()) as Box<dyn Read>, |body| Box::new(body.into_reader()))
    }
}

impl Client {
    pub fn new(settings: Settings) -> Self {
        let agents = agents(&settings.agent, settings.about.max(settings.standstill), settings.standstill);
        Self { settings, agents }
    }

    /// JSON of the Hub's API, at a path of its; and the address of the next page, where there is one.
    pub fn json(&self, url: &str) -> Result<(Value, Option<String>), Failure> {
        let answer = self.persistently(url, || {
            let answer = self.ask(Method::Get, url, None)?;
            let next = answer.header("link").and_then(|link| next_page(&link));
            let mut text = String::new();
            let read = answer.into_reader().take(LONGEST_LIST).read_to_string(&mut text);
            read.map_err(|e| broken(&e))?;
            Ok((text, next))
        });
        let (text, next) = answer?;
        match serde_json::from_str(&text) {
            Ok(value) => Ok((value, next)),
            Err(_) => {
                Err(Failure::Strange(format!("{} answers with something other than the Hub's lists", shown(url))))
            }
        }
    }

    /// The headers that say what a file is.
    pub fn head(&self, url: &str) -> Result<Answer, Failure> {
        self.persistently(url, || self.ask(Method::Head, url, None))
    }

    /// A file from its byte `start` on, to its end or that before `end`; tried once.
    pub fn get(&self, url: &str, start: u64, end: Option<u64>) -> Result<Answer, Failure> {
        let range = match end {
            Some(end) => Some(format!("bytes={start}-{}", end - 1)),
            None => (start > 0).then(|| format!("bytes={start}-")),
        };
        self.ask(Method::Get, url, range.as_deref())
    }

    /// Tries again what fails in passing.
    fn persistently<T>(&self, url: &str, attempt: impl Fn() -> Result<T, Failure>) -> Result<T, Failure> {
        let mut tries = 0;
        loop {
            match attempt() {
                Err(Failure::Passing { said, wait }) => pause(&mut tries, &format!("{}: {said}", shown(url)), wait)?,
                done => return done,
            }
        }
    }

    /// A request, and those that it is redirected to.
    fn ask(&self, method: Method, url: &str, range: Option<&str>) -> Result<Answer, Failure> {
        let (mut url, mut connections) = (url.to_owned(), 0);
        for _ in 0..=REDIRECTS {
            let answer = loop {
                let began = Instant::now();
                match self.once(method, &url, range) {
                    Err(ureq::Error::Io(e)) if is_transient(&e) && connections < CONNECTIONS => {
                        connections += 1;
                        tracing::debug!("{}: {e}, after {:.1} s", shown(&url), began.elapsed().as_secs_f64());
                        sleep(Duration::from_secs(u64::from(connections)))?;
                    }
                    done => break done.map_err(|e| self.unreached(&url, &e))?,
                }
            };
            let is_redirect = (300..400).contains(&answer.status);
            let to = answer.header("location").filter(|_| is_redirect);
            let Some(to) = to else {
                return match answer.status {
                    200..300 => Ok(answer),
                    status => Err(Failure::of(status, |name| answer.header(name))),
                };
            };
            let target =
                joined(&url, &to).ok_or_else(|| Failure::Strange(format!("{} redirects nowhere", shown(&url))))?;
            if method == Method::Head && !self.is_hub(&target) && origin(&target) != origin(&url) {
                return Ok(answer);
            }
            // A connection whose answer was read is used again.
            let _ = io::copy(&mut answer.into_reader().take(SHORT), &mut io::sink());
            url = target;
        }
        Err(Failure::Strange(format!("{} redirects without an end", shown(&url))))
    }

    /// One request. Only the Hub gets the token.
    fn once(&self, method: Method, url: &str, range: Option<&str>) -> Result<Answer, ureq::Error> {
        if is_interrupted() {
            return Err(ureq::Error::Io(io::ErrorKind::Interrupted.into()));
        }
        let agent = self.agents.of_url(url).0;
        let mut request = if method == Method::Head { agent.head(url) } else { agent.get(url) };
        // A packed file has another length.
        request = request.header("accept-encoding", "identity");
        if let Some(token) = self.settings.token.as_ref().filter(|_| self.is_hub(url)) {
            request = request.header("authorization", format!("Bearer {}", token.secret));
        }
        if let Some(range) = range {
            request = request.header("range", range);
        }
        let answer_in = if method == Method::Head { self.settings.about } else { self.settings.standstill };
        let response = request.config().timeout_recv_response(Some(answer_in)).build().call()?;
        let (parts, body) = response.into_parts();
        let body = (method == Method::Get).then_some(body);
        Ok(Answer { headers: parts.headers, status: parts.status.as_u16(), body })
    }

    /// Whether an address is the Hub's: that of HF_ENDPOINT, or those that the Hub itself has.
    fn is_hub(&self, url: &str) -> bool {
        let own = origin(url);
        own.is_some()
            && [self.settings.endpoint.as_str(), HUB, "https://hf.co"].into_iter().any(|hub| origin(hub) == own)
    }

    /// A request that came to nothing.
    fn unreached(&self, url: &str, error: &ureq::Error) -> Failure {
        match error {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) if !is_interrupted() => Failure::Unreachable(format!(
                "{} is no address; HF_ENDPOINT names the Hub",
                shown(&self.settings.endpoint)
            )),
            error => unreached(&self.agents, url, error),
        }
    }
}

/// What speaks to servers: through the proxies of the environment, trusting the system's certificates; no redirect is
/// followed, and no status is an error.
pub fn agents(name: &str, connect: Duration, standstill: Duration) -> Proxies<Agent> {
    let certificates = rustls_native_certs::load_native_certs();
    certificates.errors.iter().for_each(|e| tracing::debug!("a certificate of the system is not read: {e}"));
    let own: Vec<_> = certificates.certs.iter().map(|c| Certificate::from_der(c).to_owned()).collect();
    let roots = if own.is_empty() { RootCerts::WebPki } else { RootCerts::new_with_certs(&own) };
    let tls = TlsConfig::builder().root_certs(roots).build();
    Proxies::of_environment(|proxy| {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(name)
            .tls_config(tls.clone())
            .proxy(proxy)
            .timeout_connect(Some(connect))
            .timeout_per_read(Some(standstill));
        Agent::new_with_config(config.build())
    })
}

/// A request that came to nothing, whomever it went to.
pub fn unreached(agents: &Proxies<Agent>, url: &str, error: &ureq::Error) -> Failure {
    let host = origin(url).map_or_else(|| shown(url), |(_, host, _)| host);
    let through = agents.of_url(url).1.map_or(String::new(), |name| format!(" through the proxy of {name}"));
    match error {
        _ if is_interrupted() => Failure::Interrupted,
        ureq::Error::Timeout(_) => {
            Failure::Passing { said: format!("{host}{through} does not answer in time"), wait: None }
        }
        ureq::Error::Io(e) if e.kind() == io::ErrorKind::TimedOut => {
            Failure::Passing { said: format!("{host}{through} does not answer in time"), wait: None }
        }
        ureq::Error::HostNotFound => Failure::Unreachable(format!("the name {host} is not found{through}")),
        // What TLS refuses comes as data that is wrong.
        ureq::Error::Io(e) if e.kind() == io::ErrorKind::InvalidData => Failure::Unreachable(format!(
            "{host}{through} is not trusted: {e}; SSL_CERT_FILE names the certificates of a proxy or a mirror"
        )),
        ureq::Error::Io(e) => Failure::Unreachable(format!("{host} is not reached{through}: {e}")),
        ureq::Error::Protocol(_) => Failure::Passing { said: format!("{host} breaks off"), wait: None },
        error => Failure::Unreachable(format!("{host} is not reached{through}: {error}")),
    }
}

/// What a redirect has for people to read, in bytes.
const SHORT: u64 = 1 << 14;

/// The longest list that is read, in bytes.
const LONGEST_LIST: u64 = 256 << 20;

/// A connection that broke while it was read from.
pub fn broken(error: &io::Error) -> Failure {
    if is_interrupted() {
        return Failure::Interrupted;
    }
    Failure::Passing { said: format!("the connection broke ({error})"), wait: None }
}

/// Waits before something is tried again that failed in passing, longer each time; or says that it is given up.
pub fn pause(tries: &mut u32, said: &str, wait: Option<Duration>) -> Result<(), Failure> {
    if *tries >= RETRIES {
        return Err(Failure::Unreachable(format!("{said} (tried {} times)", *tries + 1)));
    }
    let wait = wait.unwrap_or(Duration::from_secs((1 << *tries).min(8)));
    if wait > LONGEST_WAIT {
        let minutes = wait.as_secs().div_ceil(60);
        return Err(Failure::Unreachable(format!("{said}; it asks to come back in {minutes} minutes")));
    }
    *tries += 1;
    tracing::info!("{said}; trying again in {} s", wait.as_secs());
    sleep(wait)
}

/// Whether a connection failed as it does while a server is started anew.
pub fn is_transient(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(error.kind(), ConnectionRefused | ConnectionReset | ConnectionAborted | UnexpectedEof | BrokenPipe)
}

/// Scheme, host and port.
pub fn origin(url: &str) -> Option<(String, String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?.to_lowercase();
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    Some((scheme, uri.host()?.to_lowercase(), port))
}

/// Where a redirect leads.
fn joined(url: &str, to: &str) -> Option<String> {
    if to.starts_with("https://") || to.starts_with("http://") {
        return Some(to.to_owned());
    }
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?;
    let root = format!("{scheme}://{}", uri.authority()?);
    match to {
        to if to.starts_with("//") => Some(format!("{scheme}:{to}")),
        to if to.starts_with('/') => Some(root + to),
        to => Some(format!("{root}{}/{to}", uri.path().rsplit_once('/')?.0)),
    }
}

/// An address without what may be secret in it: a signature.
pub fn shown(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    match url.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.split_once('@')?.1))) {
        Some((scheme, rest)) => format!("{scheme}://{rest}"),
        None => url.to_owned(),
    }
}

/// The address in a `Link` header that stands for the next page.
fn next_page(link: &str) -> Option<String> {
    let next = link.split(',').find(|part| part.contains("rel=\"next\""))?;
    Some(next.split_once('<')?.1.split_once('>')?.0.to_owned())
}

/// Characters of an address that stand for themselves; all others are escaped.
pub fn escaped(text: &str, keep_slashes: bool) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b) || (keep_slashes && b == b'/');
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// How many downloads run at once, as in huggingface_hub, unless the machine has fewer threads to give.
pub fn at_once() -> usize {
    thread::available_parallelism().map_or(8, |n| (2 * n.get()).clamp(4, 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_followed_from_where_they_stand() {
        for (url, to, expected) in [
            ("https://a.b/x/y", "/z?q=1", "https://a.b/z?q=1"),
            ("https://a.b:8/x/y", "z", "https://a.b:8/x/z"),
            ("https://a.b/x", "//c.d/z", "https://c.d/z"),
            ("https://a.b/x", "http://c.d/z", "http://c.d/z"),
        ] {
            assert_eq!(joined(url, to).as_deref(), Some(expected));
        }
        assert_eq!(
            next_page("</a>; rel=\"prev\", <https://h/b?c=1>; rel=\"next\"").as_deref(),
            Some("https://h/b?c=1")
        );
        assert_eq!(next_page("</a>; rel=\"prev\""), None);
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert_eq!(origin("https://Hf.co/x"), origin("https://hf.co:443/y"));
        assert_ne!(origin("http://hf.co/x"), origin("https://hf.co/x"));
        assert_ne!(origin("https://hf.co.example/x"), origin("https://hf.co/x"));
        assert_eq!(origin("nonsense"), None);
    }

    #[test]
    fn what_is_secret_in_an_address_is_not_shown() {
        assert_eq!(shown("https://user:word@cdn.example/x?Signature=abc"), "https://cdn.example/x");
        assert_eq!(escaped("refs/convert/parquet", false), "refs%2Fconvert%2Fparquet");
        assert_eq!(escaped("a b/ü=.txt", true), "a%20b/%C3%BC%3D.txt");
    }
}
