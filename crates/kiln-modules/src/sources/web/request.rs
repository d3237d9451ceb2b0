//! Requests: from the right client, with secrets, wherever redirections lead.

use std::fs::File;
use std::io::Read;
use std::time::{Duration, SystemTime};

use ureq::Body;
use ureq::http::{Response, Uri};

use super::client::Clients;
use super::failure::Failure;
use super::tls::Profile;
use super::url::{self, Location};
use super::wanted::Place;

/// How many redirections are followed; curl's limit is 50, browsers' 20.
const REDIRECTIONS: usize = 20;

/// Asks for a file from a byte on, wherever that leads; also says where, if that is another place. `silence` is how long
/// the server may be silent if that is less than usual.
pub(super) fn follow(
    clients: &Clients<'_>,
    place: &Place,
    uri: &Uri,
    from: u64,
    silence: Option<Duration>,
) -> Result<(Response<Body>, Option<String>), Failure> {
    let identity = match &place.secrets {
        Some(provider) => Some(clients.identity(provider, &place.url).map_err(Failure::permanent)?),
        None => None,
    };
    let profile = Profile { insecure: place.insecure, identity };
    let mut uri = uri.clone();
    let mut hops = 0;
    loop {
        let agent = clients.agent(&uri, &profile).map_err(Failure::permanent)?;
        let mut request = agent.get(&uri);
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        if silence.is_some() {
            request = request.config().timeout_per_read(silence).build();
        }
        let response = request.call().map_err(|error| Failure::client(&error))?;
        let status = response.status();
        if !status.is_redirection() || status.as_u16() == 304 {
            return Ok((response, (hops > 0).then(|| url::show(&uri.to_string()))));
        }
        hops += 1;
        if hops > REDIRECTIONS {
            return Err(Failure::permanent(format!("more than {REDIRECTIONS} redirections")));
        }
        uri = redirection(&uri, &response)?;
    }
}

/// Fetches a short text; `limit` is how long it may be.
pub(super) fn text(clients: &Clients<'_>, place: &Place, limit: u64) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    match &place.location {
        Location::File(path) => {
            let read = File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut text));
            read.map_err(|error| Failure::permanent(format!("cannot read `{}`: {error}", path.display())))?;
        }
        Location::Web(uri) => {
            let (response, place) = follow(clients, place, uri, 0, None)?;
            if response.status().as_u16() != 200 {
                return Err(refusal(&response, &place));
            }
            let read = response.into_body().into_reader().take(limit + 1).read_to_end(&mut text);
            read.map_err(|error| Failure::client(&error.into()))?;
        }
    }
    if text.len() as u64 > limit {
        return Err(Failure::permanent(format!("it has more than {limit} bytes")));
    }
    Ok(text)
}

/// What an answer that is no content means.
pub(super) fn refusal(response: &Response<Body>, place: &Option<String>) -> Failure {
    let mut failure = Failure::status(response.status().as_u16(), response.headers(), SystemTime::now());
    if let Some(place) = place {
        failure.reason = format!("{} (redirected to {place})", failure.reason);
    }
    failure
}

fn redirection(base: &Uri, response: &Response<Body>) -> Result<Uri, Failure> {
    let location = response.headers().get("location").map(|value| value.as_bytes()).unwrap_or_default();
    if location.is_empty() {
        return Err(Failure::permanent("the server redirects without saying where to"));
    }
    url::join(base, &String::from_utf8_lossy(location)).map_err(Failure::permanent)
}
