//! Where a self-signed authority is kept in a cluster: Secret `istio-ca-secret` of the root namespace, the same texts by
//! the same names as in a folder (spec/controlplane.md 3.6). Replicas share it: each writes over the version that it has
//! read, so of two that change it at a time one is refused and reads again.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::PostParams;

use super::stored::Data;

#[cfg(test)]
mod tests;

pub const NAME: &str = "istio-ca-secret";
const TYPE: &str = "istio.io/ca-root";

/// What is kept, and in which version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub data: Data,
    pub version: String,
}

/// What is kept now; `None`: nothing yet.
pub async fn load(secrets: &Api<Secret>) -> kube::Result<Option<Kept>> {
    Ok(secrets.get_opt(NAME).await?.map(kept))
}

/// Makes the Secret. Of replicas that start together one makes it, and all take what is there then.
pub async fn create(secrets: &Api<Secret>, data: &Data) -> kube::Result<Kept> {
    match secrets.create(&PostParams::default(), &secret(data, None)).await {
        Ok(created) => Ok(kept(created)),
        Err(kube::Error::Api(status)) if status.code == 409 => secrets.get(NAME).await.map(kept),
        Err(error) => Err(error),
    }
}

/// Writes over a version. `None`: another replica was first.
pub async fn replace(secrets: &Api<Secret>, version: &str, data: &Data) -> kube::Result<Option<Kept>> {
    match secrets.replace(NAME, &PostParams::default(), &secret(data, Some(version))).await {
        Ok(replaced) => Ok(Some(kept(replaced))),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
        Err(error) => Err(error),
    }
}

fn secret(data: &Data, version: Option<&str>) -> Secret {
    let bytes = |text: &String| ByteString(text.clone().into_bytes());
    let mut secret = Secret {
        data: Some(data.iter().map(|(name, text)| (name.clone(), bytes(text))).collect()),
        type_: Some(TYPE.into()),
        ..Secret::default()
    };
    secret.metadata.name = Some(NAME.into());
    secret.metadata.resource_version = version.map(str::to_owned);
    secret
}

/// What is no text is none of ours.
fn kept(secret: Secret) -> Kept {
    let data: BTreeMap<String, ByteString> = secret.data.unwrap_or_default();
    let texts = data.into_iter().filter_map(|(name, ByteString(bytes))| Some((name, String::from_utf8(bytes).ok()?)));
    // An empty text is how a Secret says that there is none.
    let texts = texts.filter(|(_, text)| !text.is_empty());
    Kept { data: texts.collect(), version: secret.metadata.resource_version.unwrap_or_default() }
}
