use std::io;

use tokio_util::sync::CancellationToken;

/// A token that is cancelled when the process is asked to end: SIGTERM, as Kubernetes and systemd ask, or Ctrl-C.
///
/// # Errors
/// Where the system does not let us hear signals.
pub(super) fn stop_token() -> io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let asked = stop.clone();
    #[cfg(unix)]
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::spawn(async move {
        #[cfg(unix)]
        let terminated = terminate.recv();
        #[cfg(not(unix))]
        let terminated = std::future::pending::<()>();
        tokio::select! {
            _ = terminated => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        asked.cancel();
    });
    Ok(stop)
}

/// Changes whenever the process is asked to read its files again: by SIGHUP, where the system has it.
///
/// # Errors
/// Where the system does not let us hear signals.
pub(super) fn reload() -> io::Result<tokio::sync::watch::Receiver<()>> {
    let (asked, reload) = tokio::sync::watch::channel(());
    #[cfg(unix)]
    {
        let mut hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?;
        tokio::spawn(async move { while hangup.recv().await.is_some() && asked.send(()).is_ok() {} });
    }
    #[cfg(not(unix))]
    drop(asked);
    Ok(reload)
}
