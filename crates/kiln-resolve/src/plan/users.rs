//! Users and groups.
//!
//! A password may be written plainly, as in any blueprint; it is hashed here and never reaches the manifest. The
//! salt is derived from the image's and the user's name and not from the password, which it would help to guess.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::stage;
use crate::ResolveError;
use crate::definition::{Definition, User};

/// How hashed passwords begin: `crypt(5)`'s methods.
const HASHED: [&str; 8] = ["$1$", "$2a$", "$2b$", "$2y$", "$5$", "$6$", "$7$", "$y$"];
/// The bytes behind the sixteen characters that are the longest salt.
const SALT: usize = 12;

pub(super) fn stages(definition: &Definition) -> Result<Vec<Value>, ResolveError> {
    let customizations = &definition.customizations;
    let mut stages = Vec::new();
    if !customizations.groups.is_empty() {
        let mut groups = Map::new();
        for (name, gid) in &customizations.groups {
            groups.insert(name.clone(), gid.map_or_else(|| json!({}), |gid| json!({ "gid": gid })));
        }
        stages.push(stage("org.osbuild.groups", json!({ "groups": groups })));
    }
    let mut users: Map<String, Value> = Map::new();
    for user in &customizations.users {
        let keys = merged_keys(&customizations.users, &user.name);
        // A table `user` says more than a table `sshkey` of the same name.
        let fuller = customizations.users.iter().any(|other| other.name == user.name && is_user(other));
        if fuller && !is_user(user) {
            continue;
        }
        users.insert(user.name.clone(), options(definition, user, &keys)?);
    }
    if !users.is_empty() {
        stages.push(stage("org.osbuild.users", json!({ "users": users })));
    }
    Ok(stages)
}

fn is_user(user: &User) -> bool {
    !user.existing || user.name == "root"
}

fn merged_keys<'a>(users: &'a [User], name: &str) -> Vec<&'a str> {
    let mut keys: Vec<&str> = Vec::new();
    for key in users.iter().filter(|user| user.name == name).flat_map(|user| &user.keys) {
        if !keys.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    keys
}

fn options(definition: &Definition, user: &User, keys: &[&str]) -> Result<Value, ResolveError> {
    let mut options = Map::new();
    let mut set =
        |name: &str, value: Option<Value>| options.extend(value.map(|value| (name.to_owned(), value)));
    set("uid", user.uid.map(Value::from));
    set("gid", user.gid.map(Value::from));
    set("groups", (!user.groups.is_empty()).then(|| json!(user.groups)));
    set("description", user.description.as_ref().map(|text| json!(text)));
    if user.existing {
        set("home", user.home.as_ref().map(|path| json!(path)));
        set("shell", user.shell.as_ref().map(|path| json!(path)));
    } else {
        // Debian's defaults for new users are those of adduser, which the stage does not use.
        let home = user.home.clone().unwrap_or_else(|| format!("/home/{}", user.name));
        set("home", Some(json!(home)));
        set("shell", Some(json!(user.shell.as_deref().unwrap_or("/bin/bash"))));
    }
    let password = user.password.as_deref().map(|password| hashed(definition, user, password)).transpose()?;
    set("password", password.map(Value::from));
    match keys {
        [] => {}
        [key] => set("key", Some(json!(key))),
        keys => set("keys", Some(json!(keys))),
    }
    set("expiredate", user.expire_date.map(Value::from));
    set("force_password_reset", user.force_password_reset.then_some(Value::Bool(true)));
    Ok(Value::Object(options))
}

/// The password as `crypt(3)` gives it.
fn hashed(definition: &Definition, user: &User, password: &str) -> Result<String, ResolveError> {
    if HASHED.iter().any(|method| password.starts_with(method)) || password.starts_with(['!', '*']) {
        return Ok(password.to_owned());
    }
    let digest = Sha256::digest(format!("kiln salt\0{}\0{}", definition.name, user.name));
    let salt = digest.get(..SALT).unwrap_or_default();
    crypt(password, salt).ok_or_else(|| ResolveError::Password { user: user.name.clone() })
}

/// SHA-512 of `crypt(5)`, with its usual number of rounds.
fn crypt(password: &str, salt: &[u8]) -> Option<String> {
    use sha_crypt::{CustomizedPasswordHasher, Params, ShaCrypt};
    let hash =
        ShaCrypt::SHA512.hash_password_customized(password.as_bytes(), salt, None, None, Params::default());
    hash.ok().map(|hash| hash.to_string())
}

#[cfg(test)]
mod tests {
    use super::crypt;

    #[test]
    fn passwords_are_hashed_as_crypt_does() {
        let hash = crypt("open sesame", &[7; super::SALT]).expect("a hash");
        // The value is the C library's.
        assert_eq!(
            hash,
            "$6$rounds=5000$5Qk/5Qk/5Qk/5Qk/$L2B04InXglgvoKf9SR.QAC7x7X0Ra6SiESjoH7x4t7o4CYAdf5AwUBO5T.7fj97xzWQL5VYeW7nZp7Kq3rVsL0"
        );
    }
}
