//! Sending over QUIC: a thread keeps the schedule, the connection's own task sends what it is handed.

use std::io;
use std::sync::Arc;

use quinn::SendStream;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Sender, channel};

use super::super::message::HEADER;
use super::super::order::{Answer, Order};
use super::super::pace::{Outgoing, Outlet};
use super::tcp::end;
use super::{Runs, frame};
use crate::stream::StreamError;
use crate::stream::source::on_thread;

/// Serves one order; returns the bytes of messages sent.
pub(crate) async fn serve(mut stream: SendStream, order: Order, runs: Arc<Runs>) -> Result<u64, StreamError> {
    // One more batch than is being sent: what waits here waits unseen by QUIC's own control of congestion.
    let (batches, mut ready) = channel(1);
    let keep = on_thread(move || {
        let mut outlet = Quic(batches);
        let session = match runs.join(&order) {
            Ok(session) => session,
            Err(why) => {
                outlet.hand(frame(&Answer::Refused(why.clone())))?;
                return Err(io::Error::other(why));
            }
        };
        outlet.hand(frame(&session.answer()))?;
        let closing = session.send(&mut outlet)?;
        outlet.hand(end(&closing))?;
        Ok(closing.bytes)
    });
    let write = async {
        while let Some(batch) = ready.recv().await {
            let batch: Vec<u8> = batch;
            if stream.write_all(&batch).await.is_err() {
                // The thread finds nobody to hand the next one to.
                ready.close();
                break;
            }
        }
        let _ = stream.finish();
    };
    let (bytes, ()) = tokio::join!(keep, write);
    bytes
}

struct Quic(Sender<Vec<u8>>);

impl Quic {
    /// Hands bytes over and tells whether that had to wait.
    fn hand(&mut self, bytes: Vec<u8>) -> io::Result<bool> {
        let gone = || io::Error::other("the connection was lost");
        match self.0.try_send(bytes) {
            Ok(()) => Ok(false),
            Err(TrySendError::Full(bytes)) => self.0.blocking_send(bytes).map(|()| true).map_err(|_| gone()),
            Err(TrySendError::Closed(_)) => Err(gone()),
        }
    }
}

impl Outlet for Quic {
    fn send(&mut self, batch: &[Outgoing<'_>]) -> io::Result<bool> {
        let length = batch.iter().map(|m| HEADER + m.payload.len()).sum();
        let mut bytes = Vec::with_capacity(length);
        for message in batch {
            bytes.extend_from_slice(&message.header);
            bytes.extend_from_slice(message.payload);
        }
        self.hand(bytes)
    }

    fn alive(&mut self) -> io::Result<()> {
        if self.0.is_closed() { Err(io::Error::other("the connection was lost")) } else { Ok(()) }
    }
}
