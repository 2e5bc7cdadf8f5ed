//! `k` in a column: whole numbers are integers, so that they read as such.

use plan::K;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::sqlite::{SqliteArgumentsBuffer, SqliteTypeInfo, SqliteValueRef};
use sqlx::{Decode, Encode, Sqlite, Type, ValueRef};

/// As the column has it.
pub(crate) struct StoredK(K);

impl From<K> for StoredK {
    fn from(k: K) -> Self {
        Self(k)
    }
}

impl From<StoredK> for K {
    fn from(stored: StoredK) -> Self {
        stored.0
    }
}

impl Type<Sqlite> for StoredK {
    fn type_info() -> SqliteTypeInfo {
        <f64 as Type<Sqlite>>::type_info()
    }

    fn compatible(found: &SqliteTypeInfo) -> bool {
        <f64 as Type<Sqlite>>::compatible(found) || <i64 as Type<Sqlite>>::compatible(found)
    }
}

impl Encode<'_, Sqlite> for StoredK {
    fn encode_by_ref(&self, values: &mut SqliteArgumentsBuffer) -> Result<IsNull, BoxDynError> {
        match self.0.whole() {
            Some(whole) => i64::try_from(whole)?.encode_by_ref(values),
            None => self.0.mean().encode_by_ref(values),
        }
    }
}

impl Decode<'_, Sqlite> for StoredK {
    fn decode(value: SqliteValueRef<'_>) -> Result<Self, BoxDynError> {
        let is_whole = <i64 as Type<Sqlite>>::compatible(&value.type_info());
        let k = if is_whole {
            K::from(usize::try_from(<i64 as Decode<Sqlite>>::decode(value)?)?)
        } else {
            K::from(<f64 as Decode<Sqlite>>::decode(value)?)
        };
        Ok(Self(k))
    }
}
