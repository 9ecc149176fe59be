use super::{Args, Environment};
use crate::{
    agent::{HttpProxy, Proxies},
    tunnel::tls::{self, Trust},
};

/// What `--proxy` says for no proxy at all, whatever the environment says.
const DIRECT: &str = "direct";

/// The proxies between the agent and its edge: those of the flags, else those that other programs take from the
/// environment too. Errors name where the proxy comes from, and never show it, since there may be a password in it.
pub(super) fn proxies(args: &Args, environment: &Environment) -> Result<Proxies, String> {
    let no_proxy = args.no_proxy.as_deref().or(environment.no_proxy.as_deref()).unwrap_or_default();
    let (name, proxy) = match (&args.proxy, &environment.https_proxy) {
        (Some(proxy), _) if proxy.eq_ignore_ascii_case(DIRECT) => return Ok(Proxies::default()),
        (Some(proxy), _) => ("--proxy", proxy),
        // As its name says, it is not for what is not encrypted.
        (None, Some(proxy)) if !args.insecure_plaintext => ("HTTPS_PROXY", proxy),
        (None, _) => return Ok(Proxies::default()),
    };
    let proxy: HttpProxy =
        proxy.parse().map_err(|error| format!("{name}: {error}; --proxy={DIRECT} is for none at all"))?;
    let proxy = if proxy.is_encrypted() {
        let tls = tls::client(&Trust::System);
        proxy.with_tls(tls.map_err(|error| format!("{name}: no TLS with a proxy: {error}"))?)
    } else {
        proxy
    };
    Ok(Proxies::new(proxy, no_proxy))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn of(flags: &str, https_proxy: Option<&str>) -> Result<String, String> {
        let flags = format!("--agent web/lab {flags}");
        let command = Command::try_parse_from(["agent"].into_iter().chain(flags.split_whitespace()));
        let environment = Environment { https_proxy: https_proxy.map(str::to_owned), ..Environment::default() };
        let args = command.map_err(|error| error.to_string())?.args;
        proxies(&args, &environment).map(|proxies| format!("{proxies:?}"))
    }

    #[test]
    fn a_flag_comes_before_the_environment() {
        let none = format!("{:?}", Proxies::default());
        let (edge, environment) = ("--edge https://edge", Some("http://env:3128"));
        assert_eq!(of(edge, None), Ok(none.clone()));
        assert!(of(edge, environment).expect("proxies").contains("env:3128"));
        assert!(of(&format!("{edge} --proxy http://flag:3128"), environment).expect("proxies").contains("flag:3128"));
        assert_eq!(of(&format!("{edge} --proxy direct"), environment), Ok(none.clone()));
        assert_eq!(of("--edge http://edge --insecure-plaintext", environment), Ok(none));
    }

    #[test]
    fn what_is_wrong_is_named_without_the_password() {
        let error = of("--edge https://edge", Some("socks5://me:secret@proxy")).expect_err("SOCKS");
        assert!(error.starts_with("HTTPS_PROXY: only http://") && !error.contains("secret"), "{error}");
        let error = of("--edge https://edge --proxy http://me:secret@proxy:x", None).expect_err("no port");
        assert!(error.starts_with("--proxy: ") && !error.contains("secret"), "{error}");
    }
}
