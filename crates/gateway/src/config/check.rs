//! What `kr-gateway check-config` prints.

use std::fmt::Write as _;

use super::{Config, ConfigError, Loaded, live};
use crate::cli::Flags;

/// Reads what the gateway would read, and says what it would use. Keys are not shown.
///
/// # Errors
/// The configuration can't be used.
pub fn check(flags: &Flags) -> Result<String, ConfigError> {
    let loaded = Config::load_any(flags)?;
    let source = match loaded.path.exists() {
        true => loaded.path.display().to_string(),
        false => "without a configuration file".to_owned(),
    };
    Ok(describe(&source, &loaded))
}

fn describe(source: &str, Loaded { config, warnings, .. }: &Loaded) -> String {
    let mut text = String::new();
    // A text takes everything that is written to it.
    let _ = writeln!(text, "{source}: no mistakes. These values would be used (* can change while it runs):");
    for (key, value, is_live) in live::values(config) {
        let mark = if is_live { '*' } else { ' ' };
        let _ = writeln!(text, "{mark} {key}: {}", value.escape_debug());
    }
    if config.models.is_empty() {
        let _ = writeln!(text, "warning: no model is named; `model` or --model has to name one");
    }
    for warning in warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use super::*;
    use crate::config::Environment;

    fn described(text: &str, environment: &Environment) -> String {
        let flags = Flags { models: vec!["m".into()], ..Flags::default() };
        describe("a.yaml", &Config::from_parts(Path::new("a.yaml"), text, &flags, environment).unwrap())
    }

    fn warnings(text: &str, environment: &Environment) -> Vec<String> {
        let text = described(text, environment);
        text.lines().filter_map(|line| line.strip_prefix("warning: ")).map(str::to_owned).collect()
    }

    #[test]
    fn the_values_are_shown_and_no_secrets() {
        let environment = Environment {
            api_keys: Some("alice:0123456789abcdef".into()),
            admin_key: Some("fedcba9876543210".into()),
            ..Environment::default()
        };
        let text = described("server: {port: 7}\n", &environment);
        for line in [
            "  model: [m]",
            "  server.port: 7",
            "* server.api_keys_file: [alice]",
            "* server.admin_key_file: [admin]",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}: {text}");
        }
        assert!(!text.contains("0123456789") && !text.contains("9876543210"), "{text}");
        assert!(!text.contains("warning"), "{text}");
    }

    #[test]
    fn what_has_no_effect_or_is_dangerous_is_said() {
        let none = Environment::default();
        let keyed = Environment { api_key: Some("0123456789abcdef".into()), ..none.clone() };
        let both = Environment { admin_key: keyed.api_key.clone(), ..keyed.clone() };
        for (text, environment, part) in [
            ("server: {allow_insecure: true}", &none, "`server.allow_insecure` has no effect"),
            ("server: {host: 0.0.0.0}", &keyed, "API keys cross the network as plain text"),
            ("server: {host: 0.0.0.0, allow_insecure: true}", &none, "neither API keys nor TLS"),
            ("server: {allowed_hosts: ['*']}", &none, "`server.allowed_hosts` has"),
            ("server: {allowed_origins: ['*']}", &none, "every web page"),
            ("worker: {special_tokens_in_content: true}", &none, "forge turns"),
            ("", &both, "the admin key `admin` is an API key as well"),
            ("server: {api_keys_file: /no/such/file}", &keyed, "`server.api_keys_file` has no effect"),
            ("server: {admin_key_file: /no/such/file}", &both, "`server.admin_key_file` has no effect"),
        ] {
            let warnings = warnings(text, environment);
            assert!(warnings.iter().any(|it| it.contains(part)), "{text}: {warnings:?}");
        }
        assert_eq!(warnings("", &none), [""; 0]);
        assert_eq!(warnings("server: {allowed_origins: ['*']}", &keyed), [""; 0], "pages need a key");
    }
}
