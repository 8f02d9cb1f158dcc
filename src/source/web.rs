//! How servers are spoken to, whatever they serve: proxies, certificates, what is tried again and after how long, and what of
//! an address is secret. The Hub's client has it all; others take it from here.

pub use super::hub::{
    Failure, Proxies, agents, broken, is_interrupted, is_transient, pause, shown, sleep, unreached, wait,
};

/// The host of an address of HTTP; None where it is none.
pub fn host(url: &str) -> Option<String> {
    let (scheme, host, _) = super::hub::origin(url)?;
    (["http", "https"].contains(&scheme.as_str()) && !host.is_empty()).then_some(host)
}
