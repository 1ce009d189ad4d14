//! Commands in VMs: a connection of the tool becomes a stream of frames, which goes on to the VM's control channel.

use axum::body::Body;
use axum::http::{Response, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use i2kit_spec::control::{Decoder, Message, Open};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::cloud::CloudError;
use crate::cloud::local::keeper::Keeper;
use crate::cloud::local::link::channel::{Connection, Refusal};
use crate::cloud::local::wire::{EXEC_PROTOCOL, Exec};

/// Begins the command and answers; the frames go over the connection afterwards.
pub(super) fn start(keeper: &Keeper, exec: Exec, upgrade: OnUpgrade) -> Result<Response<Body>, CloudError> {
    let Exec { environment, instance, command } = exec;
    let channel = {
        let state = keeper.state();
        if !state.knows(&environment, &instance) {
            return Err(CloudError::not_found("VM", &instance));
        }
        state.machines.get(&instance).map(|machine| machine.channel.clone())
    };
    let size = command.terminal.unwrap_or_default();
    let open = Open {
        container: command.container.unwrap_or_default(),
        command: command.command,
        terminal: command.terminal.is_some(),
        input: command.input,
        rows: size.rows,
        columns: size.columns,
        ..Open::default()
    };
    let connection = match channel {
        Some(Some(channel)) => channel.open(open).map_err(|refusal| refusal.to_string()),
        Some(None) => Err("the VM is being started; run the command again in a moment".to_owned()),
        None => Err(Refusal::Ended.to_string()),
    };
    let connection = connection.map_err(|message| CloudError::Guest { instance, message })?;
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            // When the tool goes, or the VM, there is nobody left to tell.
            drop(carry(TokioIo::new(upgraded), connection).await);
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let protocol = header::HeaderValue::from_static(EXEC_PROTOCOL);
    response.headers_mut().insert(header::UPGRADE, protocol);
    response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("upgrade"));
    Ok(response)
}

async fn carry(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    mut connection: Connection,
) -> std::io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        tokio::select! {
            length = reader.read(&mut buffer) => {
                match length? {
                    0 => return Ok(()),
                    length => decoder.push(&buffer[..length]),
                }
                for message in decoder.by_ref() {
                    connection.send(message);
                }
            }
            message = connection.messages.recv() => {
                // The channel went with its VM; the tool sees the end of the connection.
                let Some(message) = message else { return Ok(()) };
                let mut bytes = Vec::new();
                // It came in a frame, or was made here.
                message.encode(&mut bytes).map_err(std::io::Error::other)?;
                writer.write_all(&bytes).await?;
                if let Message::Ended { .. } = message {
                    return writer.shutdown().await;
                }
            }
        }
    }
}
