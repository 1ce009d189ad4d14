//! Registries as one source: endpoint after endpoint, a client for each host.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use i2kit_spec::Architecture;
use tokio::sync::{Mutex, Semaphore};

use super::client::{RegistryClient, Request};
use super::download::{Download, Outcome};
use super::endpoint::{Endpoint, endpoints};
use super::retry::retrying;
use super::{credentials, pull_secrets};
use crate::oci::{Descriptor, Digest, Reference};
use crate::registry::blocking::blocking;
use crate::registry::error::Error;
use crate::registry::ingest::Ingest;
use crate::registry::progress::Task;
use crate::registry::settings::Settings;
use crate::registry::source::contract::{Source, verify};
use crate::registry::store::Partial;
use crate::report::Events;

/// Registries and their mirrors.
#[derive(Debug)]
pub(in crate::registry::source) struct Registries {
    settings: Settings,
    events: Events,
    /// One client for each host and way to speak to it, made when first needed.
    clients: Mutex<HashMap<(String, bool, bool), Arc<RegistryClient>>>,
    /// Limits the blobs in flight.
    downloads: Semaphore,
}

impl Registries {
    pub(in crate::registry::source) fn new(settings: Settings, events: Events) -> Self {
        let downloads = Semaphore::new(settings.concurrency.max(1));
        Self { settings, events, clients: Mutex::default(), downloads }
    }

    /// Asks one endpoint after the other until one answers. The registry itself is the last, and its error is the one
    /// that is reported, with those of the mirrors when it is not reached.
    async fn ask<T, F: Future<Output = Result<T, Error>>>(
        &self,
        image: &Reference,
        question: impl Fn(Arc<RegistryClient>, Endpoint, bool) -> F,
    ) -> Result<T, Error> {
        let mut endpoints = endpoints(&self.settings, image).into_iter().peekable();
        let mut mirrors = Vec::new();
        loop {
            let endpoint = endpoints.next().expect("the registry itself is always the last endpoint");
            let is_last = endpoints.peek().is_none();
            let answer = match self.client(&endpoint).await {
                Ok(client) => question(client, endpoint, is_last).await,
                Err(error) => Err(error),
            };
            match answer {
                Err(error) if !is_last && error.is_worth_another_mirror() => {
                    tracing::debug!(%error, "next mirror");
                    mirrors.push(error.to_string());
                }
                answer => return answer.map_err(|error| error.after(mirrors)),
            }
        }
    }

    /// The client for an endpoint's host.
    async fn client(&self, endpoint: &Endpoint) -> Result<Arc<RegistryClient>, Error> {
        let mut clients = self.clients.lock().await;
        let key = (endpoint.host.clone(), endpoint.plain_http, endpoint.is_local);
        if let Some(client) = clients.get(&key) {
            return Ok(Arc::clone(client));
        }
        let (config, host) = (self.settings.docker_config.clone(), endpoint.host.clone());
        let (given, warnings) = pull_secrets::find(&self.settings.pull_secrets, &endpoint.host);
        for warning in warnings {
            self.events.warn(warning);
        }
        let credentials = if let Some(given) = given {
            given
        } else {
            let find = move || Ok(credentials::find(config.as_deref(), &host));
            let (credentials, warning) = blocking(find).await?;
            if let Some(warning) = warning {
                self.events.warn(format!("{warning}; going on without credentials"));
            }
            credentials
        };
        let client = Arc::new(RegistryClient::new(
            endpoint,
            (&self.settings.proxies, self.settings.patience),
            credentials,
            self.events.clone(),
        )?);
        clients.insert(key, Arc::clone(&client));
        Ok(client)
    }
}

#[async_trait]
impl Source for Registries {
    async fn resolve(&self, image: &Reference, _: Architecture) -> Result<Digest, Error> {
        let tag = image.tag_or_default().expect("a reference without digest has a tag");
        self.ask(image, |client, endpoint, is_last| async move {
            let request = Request { endpoint: &endpoint, image };
            retrying((is_last, client.patience), || client.tag_digest(request, tag)).await
        })
        .await
    }

    async fn document(&self, image: &Reference, digest: Digest) -> Result<Vec<u8>, Error> {
        self.ask(image, |client, endpoint, is_last| async move {
            let request = Request { endpoint: &endpoint, image };
            let bytes = retrying((is_last, client.patience), || client.manifest(request, digest)).await?;
            verify(&bytes, digest, &client.host)?;
            Ok(bytes)
        })
        .await
    }

    async fn blob(&self, image: &Reference, blob: &Descriptor, partial: Partial) -> Result<PathBuf, Error> {
        let _permit = self.downloads.acquire().await.expect("the semaphore is never closed");
        let title = format!("pull {} {}", image.repository, blob.digest.short());
        let task = Task::start(&self.events, blob.digest.to_string(), title, Some(blob.size));
        let mut ingest = {
            let blob = blob.clone();
            blocking(move || Ingest::resume(partial, &blob)).await?
        };
        let mut endpoints = endpoints(&self.settings, image).into_iter().peekable();
        let mut mirrors = Vec::new();
        loop {
            let endpoint = endpoints.next().expect("the registry itself is always the last endpoint");
            let is_last = endpoints.peek().is_none();
            let request = Request { endpoint: &endpoint, image };
            let outcome = match self.client(&endpoint).await {
                Ok(client) => {
                    let download =
                        Download { client: &client, request, digest: blob.digest, is_last, task: &task };
                    download.run(ingest).await?
                }
                Err(error) => Outcome::Failed(Box::new(ingest), error),
            };
            match outcome {
                Outcome::Done(path) => {
                    task.finish("pulled");
                    return Ok(path);
                }
                Outcome::Failed(rest, error) if !is_last && error.is_worth_another_mirror() => {
                    tracing::debug!(%error, "next mirror");
                    mirrors.push(error.to_string());
                    ingest = *rest;
                }
                Outcome::Failed(_, error) => return Err(error.after(mirrors)),
            }
        }
    }
}
