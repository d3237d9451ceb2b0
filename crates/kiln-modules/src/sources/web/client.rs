//! HTTP clients: one per TLS profile and proxy, each with its pool of open connections.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ureq::config::AutoHeaderValue;
use ureq::http::Uri;
use ureq::unversioned::transport::{ConnectProxyConnector, Connector, RustlsConnector, SocksConnector};
use ureq::{Agent, Proxy, ProxyProtocol};

use super::proxy::Proxies;
use super::tcp::{Forward, Lookup, Stop, Tcp};
use super::tls::{self, Profile};
use crate::sources::secrets::{Identity, Secrets};

/// What the server is told about who asks.
const USER_AGENT: &str = concat!("kiln/", env!("CARGO_PKG_VERSION"), " (osbuild; Linux)");
/// How much of a body is handled at once.
pub(super) const BUFFER: usize = 128 * 1024;

/// The clients of one download.
pub(super) struct Clients<'a> {
    environment: &'a BTreeMap<String, String>,
    proxies: Proxies,
    stop: Stop,
    stall: Duration,
    connect: Duration,
    agents: Mutex<HashMap<(Profile, Route), Agent>>,
    secrets: Secrets<'a>,
}

/// How a server is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Route {
    Direct,
    /// Through a tunnel: `CONNECT` or SOCKS.
    Tunnel(String),
    /// By asking an `http` proxy for a plain `http` URL.
    Forward(String),
}

impl<'a> Clients<'a> {
    /// `stall` is how long a server may be silent, `connect` how long it may take to be reached.
    pub(super) fn new(
        environment: &'a BTreeMap<String, String>,
        stop: Stop,
        stall: Duration,
        connect: Duration,
    ) -> Self {
        let proxies = Proxies::from_environment(environment);
        Self {
            environment,
            proxies,
            stop,
            stall,
            connect,
            agents: Mutex::default(),
            secrets: Secrets::new(environment, "CURL"),
        }
    }

    /// Finds the secrets that an item names.
    pub(super) fn identity(&self, provider: &str, url: &str) -> Result<Identity, String> {
        self.secrets.identity(provider, url)
    }

    /// Whether a URL is fetched through a proxy.
    pub(super) fn has_proxy(&self, uri: &Uri) -> bool {
        self.proxies.of(uri).is_some()
    }

    /// The client for a URL.
    pub(super) fn agent(&self, uri: &Uri, profile: &Profile) -> Result<Agent, String> {
        let route = match self.proxies.of(uri) {
            None => Route::Direct,
            Some(proxy) => {
                let plain = uri.scheme_str() == Some("http");
                match parse_proxy(proxy)?.protocol() {
                    ProxyProtocol::Http if plain => Route::Forward(proxy.to_owned()),
                    _ => Route::Tunnel(proxy.to_owned()),
                }
            }
        };
        let mut agents = self.agents();
        if let Some(agent) = agents.get(&(profile.clone(), route.clone())) {
            return Ok(agent.clone());
        }
        let agent = self.connect(&route, profile)?;
        agents.insert((profile.clone(), route), agent.clone());
        Ok(agent)
    }

    /// Ends all transfers: the run was interrupted.
    pub(super) fn shut_down(&self) {
        self.stop.set();
        for agent in self.agents().values() {
            agent.clone().shutdown();
        }
    }

    fn connect(&self, route: &Route, profile: &Profile) -> Result<Agent, String> {
        let (tunnel, forward) = match route {
            Route::Direct => (None, None),
            Route::Tunnel(proxy) => (Some(parse_proxy(proxy)?), None),
            Route::Forward(proxy) => (None, Some(forward(&parse_proxy(proxy)?))),
        };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Redirections are followed by the caller: each hop may have another route.
            .max_redirects(0)
            .max_redirects_will_error(false)
            // Content is kept as it is sent; nothing is asked for that would have to be decoded.
            .accept_encoding(AutoHeaderValue::None)
            .user_agent(USER_AGENT)
            .proxy(tunnel)
            .tls_config(tls::settings(profile, self.environment)?)
            .input_buffer_size(BUFFER)
            .output_buffer_size(16 * 1024)
            .max_idle_connections(64)
            .max_idle_connections_per_host(64)
            .timeout_resolve(Some(self.connect))
            .timeout_connect(Some(self.connect))
            .timeout_per_read(Some(self.stall))
            .timeout_per_write(Some(self.stall))
            .build();
        let connector =
            ().chain(SocksConnector::default())
                .chain(ConnectProxyConnector::default())
                .chain(Tcp::new(self.stop.clone(), forward.clone()))
                .chain(RustlsConnector::default());
        Ok(Agent::with_parts(config, connector, Lookup::new(self.stop.clone(), forward)))
    }

    fn agents(&self) -> MutexGuard<'_, HashMap<(Profile, Route), Agent>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parse_proxy(proxy: &str) -> Result<Proxy, String> {
    // The address may hold credentials and is not shown.
    Proxy::new(proxy).map_err(|_| "the environment names a proxy whose URL is not valid".to_owned())
}

fn forward(proxy: &Proxy) -> Forward {
    let authorization = proxy.username().map(|name| {
        let credentials = format!("{name}:{}", proxy.password().unwrap_or_default());
        format!("Basic {}", BASE64_STANDARD.encode(credentials))
    });
    Forward { proxy: proxy.uri().clone(), authorization }
}
