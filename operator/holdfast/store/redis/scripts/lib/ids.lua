-- lib/ids: `:ids`, a hash of the latest message ids: in each field entries of 18 bytes, oldest first: 9 bytes of the id's
-- digest; in 7 first seq * 2^20 + digest of the content, or 0; in 2 the id's number. An element of its own for each id would
-- take four times as much.
-- A field's name are the last one or two digits of the digests in it. `state.ids` says how many, from the first id on, so
-- that little is read and written for each, however many are to be remembered; 0: no id is known.
-- Ids are numbered modulo 2^16, and `state.known` of them before `state.id` are known. What came before goes when something
-- is written to its field.
-- `id`: the last two digits, then the 9 bytes. Returns the name of its field, the entries that stay there, and where it
-- begins among them if it is known. The field is asked for in any case: a key of another type stops the script here.
local function look_up(state, id)
  local name = string.sub(id, 1, state.ids > 0 and state.ids or terms.ids > 512 and 2 or 1)
  local entries, first = call('HGET', IDS, name), 1
  if not entries or state.ids == 0 then
    return name, ''
  end
  if #entries % 18 ~= 0 then
    error({ err = 'CORRUPT the remembered ids do not have their form' })
  end
  while first < #entries and (state.id - numbers('<H', entries, first + 16)) % 65536 > state.known do
    first = first + 18
  end
  if first > 1 then
    entries = string.sub(entries, first)
  end
  local digest = string.sub(id, 3)
  local at = string.find(entries, digest, 1, true)
  while at and at % 18 ~= 1 do
    at = string.find(entries, digest, at + 1, true)
  end
  return name, entries, at
end

-- Add an id as the latest; the oldest is known no longer if there are more than the policy says.
local function remember(state, id, score, name, entries)
  call('HSET', IDS, name, entries .. string.sub(id, 3) .. pack('<I7H', score, state.id))
  state.ids, state.id, state.known = #name, (state.id + 1) % 65536, math.min(state.known + 1, terms.ids)
end
