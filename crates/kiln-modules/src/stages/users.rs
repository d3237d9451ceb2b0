//! `org.osbuild.users`

use indexmap::IndexMap;
use kiln_api::ModuleError;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::chroot::Chroot;
use crate::support::number::Number;
use crate::support::root::Root;

mod account;
#[cfg(test)]
mod tests;

use account::Account;

/// Adds users, or changes those that there are.
///
/// New users are added by the build root's `useradd --root`; existing ones are changed by its `usermod --root`, which
/// cannot change their number. Either works in a change root of the tree and goes by the tree's
/// configuration. If the home directory of an existing user is missing, the tree's own `mkhomedir_helper` makes it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The users, by name.
    users: Option<IndexMap<UserName, User>>,
}

#[derive(Deserialize, JsonSchema, PartialEq, Eq, Hash)]
#[serde(transparent)]
#[schemars(extend("pattern" = "^[A-Za-z0-9_.][A-Za-z0-9_.-]{0,255}$"))]
struct UserName(String);

/// One user.
#[derive(Deserialize, JsonSchema)]
struct User {
    /// The user's number; may be shared with other users.
    uid: Option<Number>,
    /// The number of the user's own group.
    gid: Option<Number>,
    /// The other groups that the user is in.
    #[serde(default)]
    groups: Vec<String>,
    /// The user's full name, or what else is to be said.
    description: Option<String>,
    /// The home directory, which is made; empty for a new user without one.
    home: Option<String>,
    /// The login shell.
    #[serde(default)]
    shell: String,
    /// The password, encrypted as by `crypt(3)`.
    password: Option<String>,
    /// A public SSH key with which the user may log in.
    #[serde(default)]
    key: String,
    /// More public SSH keys.
    #[serde(default)]
    keys: Vec<String>,
    /// The day on which the account expires, in days since the start of 1970.
    expiredate: Option<i64>,
    /// Whether the user must choose a new password at the first login.
    #[serde(default)]
    force_password_reset: bool,
}

pub(crate) struct Users;

impl Stage for Users {
    const NAME: &'static str = "org.osbuild.users";
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let users = options.users.ok_or_else(|| ModuleError::option("users", "it is missing"))?;
        for (UserName(name), user) in &users {
            add_or_change(name, user, context)?;
        }
        Ok(())
    }
}

fn add_or_change(name: &str, user: &User, context: &mut StageContext) -> Result<(), ModuleError> {
    let tree = Root::open(context.tree())?;
    let tool = |program: &str| Run::new(program).arg("--root").arg(context.tree());
    if let Some(account) = Account::find(&tree, name)? {
        if let Some(uid) = &user.uid
            && account.uid != uid.whole("uid")?.to_string()
        {
            let reason = format!("Error: can't set uid of existing user '{name}'");
            context.say(&reason);
            return Err(ModuleError::option(
                format!("users.{name}.uid"),
                format!("it is {} already", account.uid),
            ));
        }
        let changes = changes(user)?;
        if !changes.is_empty() {
            tool("usermod").args(changes).arg(name).run()?;
        }
        // The change may have been to the home directory.
        let home = Account::get(&tree, name)?.home;
        if !home.is_empty() && !tree.exists(&home) {
            Chroot::enter(context)?.command("mkhomedir_helper").arg(name).run()?;
        }
    } else {
        tool("useradd").args(additions(user)?).arg(name).run()?;
    }
    if user.force_password_reset {
        Run::new("passwd").arg("--root").arg(context.tree()).args(["--expire", name]).run()?;
    }
    let keys = user.keys.iter().chain(Some(&user.key).filter(|key| !key.is_empty()));
    let keys: Vec<_> = keys.map(String::as_str).collect();
    if keys.is_empty() { Ok(()) } else { Account::get(&tree, name)?.authorize(&tree, &keys) }
}

/// The arguments of `useradd`.
fn additions(user: &User) -> Result<Vec<String>, ModuleError> {
    let mut arguments = Vec::new();
    if let Some(uid) = &user.uid {
        arguments.extend(["--uid".to_owned(), uid.whole("uid")?.to_string(), "-o".to_owned()]);
    }
    let home = match user.home.as_deref() {
        None => vec![],
        Some("") => vec!["--no-create-home"],
        Some(home) => vec!["--home-dir", home, "--create-home"],
    };
    common(user, &home, arguments)
}

/// The arguments of `usermod`; empty if nothing changes.
fn changes(user: &User) -> Result<Vec<String>, ModuleError> {
    let home = match user.home.as_deref() {
        None | Some("") => vec![],
        Some(home) => vec!["--home", home],
    };
    common(user, &home, Vec::new())
}

fn common(user: &User, home: &[&str], mut arguments: Vec<String>) -> Result<Vec<String>, ModuleError> {
    let mut add = |words: &[&str]| arguments.extend(words.iter().map(|word| (*word).to_owned()));
    if let Some(gid) = &user.gid {
        add(&["--gid", &gid.whole("gid")?.to_string()]);
    }
    if !user.groups.is_empty() {
        add(&["--groups", &user.groups.join(",")]);
    }
    if let Some(description) = &user.description {
        add(&["--comment", description]);
    }
    add(home);
    if !user.shell.is_empty() {
        add(&["--shell", &user.shell]);
    }
    if let Some(password) = &user.password {
        add(&["--password", password]);
    }
    if let Some(day) = user.expiredate {
        add(&["--expiredate", &day.to_string()]);
    }
    Ok(arguments)
}
