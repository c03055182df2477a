// The URL of the server that a Redis client talks to.
'use strict';

const { InvalidError } = require('../lib/errors.js');

/**
 * Returns the URL for locks with a prefix on the server of a client: node-redis of any version, ioredis, or a URL.
 *
 * Leasehold opens a connection of its own. It cannot find a Sentinel or a Cluster from a client; pass a URL for those.
 */
function redisUrl(client, prefix) {
  if (typeof client === 'string' || client instanceof URL) return withPrefix(String(client), prefix);
  const options = { ...client?.options, ...client?.connection_options, ...client?.connectionOptions };
  const { sentinels, rootNodes, defaults } = options;
  if (client?.options === undefined || sentinels || rootNodes || defaults || client.isCluster) {
    throw new InvalidError(
      'this is neither a node-redis nor an ioredis client of one server; pass a URL such as ' +
        'redis+sentinel://s1,s2,s3/mymaster or redis+cluster://n1,n2',
    );
  }
  const place = { ...options, ...options.socket };
  // A prefix that the client itself puts in front of its keys.
  prefix = `${options.keyPrefix ?? options.prefix ?? ''}${prefix}`;
  if (place.host === undefined && options.url !== undefined) return withPrefix(options.url, prefix);
  // node-redis 3 replaces its options when it authenticates or selects a database later.
  const user = options.username ?? options.user ?? '';
  const password = options.password ?? options.auth_pass ?? client.auth_pass ?? '';
  const database = client.selected_db ?? options.db ?? options.database ?? 0;
  const login = password === '' && user === '' ? '' : `${encodeURIComponent(user)}:${encodeURIComponent(password)}@`;
  if (place.path) {
    const parts = Object.entries({ db: database, user, password, prefix }).filter(([, value]) => value !== '');
    const query = parts.map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join('&');
    return withPrefix(`redis+unix://${encodeURI(place.path)}?${query}`, prefix);
  }
  const scheme = place.tls ? 'rediss' : 'redis';
  const host = place.host ?? '127.0.0.1';
  const address = host.includes(':') ? `[${host}]` : host;
  return withPrefix(`${scheme}://${login}${address}:${place.port ?? 6379}/${database}`, prefix);
}

function withPrefix(url, prefix) {
  if (/[?&]prefix=/.test(url)) return url;
  return `${url}${url.includes('?') ? '&' : '?'}prefix=${encodeURIComponent(prefix)}`;
}

module.exports = { redisUrl };
