//! What a URL names: a storage that is not connected yet.

use std::pin::Pin;

use super::{AnyStorage, Storage};
use crate::error::Result;

/// The storage that a URL names. The URL was checked as far as that is possible without I/O.
pub(crate) struct Target {
    connect: Box<dyn FnOnce() -> Connecting + Send>,
    schema: Option<String>,
}

type Connecting = Pin<Box<dyn Future<Output = Result<AnyStorage>> + Send>>;

impl Target {
    /// Makes the target of a storage, by the function that connects to it.
    pub(crate) fn new<S: Storage, F: Future<Output = Result<S>> + Send + 'static>(
        connect: impl FnOnce() -> F + Send + 'static,
    ) -> Self {
        let connect = || -> Connecting {
            let connecting = connect();
            Box::pin(async move { connecting.await.map(AnyStorage::new) })
        };
        Self { connect: Box::new(connect), schema: None }
    }

    /// Sets the statements that create the schema.
    #[cfg_attr(not(feature = "postgres"), allow(dead_code, reason = "few storages have a schema"))]
    pub(crate) fn schema(self, schema: String) -> Self {
        Self { schema: Some(schema), ..self }
    }

    /// Connects. Runs on the engine's runtime.
    pub(crate) async fn connect(self) -> Result<AnyStorage> {
        (self.connect)().await
    }

    /// Returns the statements that create the schema, if the storage needs one.
    pub(crate) fn into_schema(self) -> Option<String> {
        self.schema
    }
}
