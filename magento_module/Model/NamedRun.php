<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model;

/**
 * The run that a REST request says it comes from, and what the request says it writes.
 *
 * What is written is taken from the request, not from the saved entity: Magento loads an entity whole, and what is merely
 * carried along was not written by the run.
 */
class NamedRun
{
    public const HEADER_RUN = 'X-Tocsin-Run';
    public const HEADER_MODEL_VERSION = 'X-Tocsin-Model-Version';
    public const HEADER_DATASET_VERSION = 'X-Tocsin-Dataset-Version';
    public const HEADER_ATTRIBUTES = 'X-Tocsin-Attributes';

    public string $runId;
    public ?string $modelVersion;
    public ?string $datasetVersion;
    /**
     * @var string[] empty: all
     */
    public array $attributes;

    /**
     * @param string[] $attributes
     */
    public function __construct(string $runId, ?string $modelVersion, ?string $datasetVersion, array $attributes)
    {
        $this->runId = $runId;
        $this->modelVersion = $modelVersion;
        $this->datasetVersion = $datasetVersion;
        $this->attributes = $attributes;
    }

    /**
     * Return the run that an entity of the request names in its extension attribute, or else the headers; or null.
     *
     * @param mixed[] $entity as in the request's body
     * @param callable(string): ?string $header
     */
    public static function of(array $entity, callable $header): ?self
    {
        $extension = self::member($entity, 'extension_attributes');
        $run = is_array($extension) ? self::member($extension, 'tocsin_run') : null;
        if (is_array($run)) {
            $given = [
                self::member($run, 'run_id'),
                self::member($run, 'model_version'),
                self::member($run, 'dataset_version'),
                self::member($run, 'attributes'),
            ];
        } else {
            $given = [
                $header(self::HEADER_RUN),
                $header(self::HEADER_MODEL_VERSION),
                $header(self::HEADER_DATASET_VERSION),
                explode(',', (string)$header(self::HEADER_ATTRIBUTES)),
            ];
        }
        [$runId, $modelVersion, $datasetVersion] = array_map(
            static fn ($value) => is_scalar($value) && trim((string)$value) !== '' ? trim((string)$value) : null,
            array_slice($given, 0, 3)
        );
        if ($runId === null) {
            return null;
        }
        $attributes = array_filter(is_array($given[3]) ? $given[3] : [], 'is_string');
        $attributes = array_values(array_filter(array_map('trim', $attributes), static fn ($code) => $code !== ''));
        return new self($runId, $modelVersion, $datasetVersion, $attributes);
    }

    /**
     * Return the codes of the attributes to which an entity of the request gives a value.
     *
     * @param mixed[] $entity
     * @return string[]
     */
    public static function written(array $entity): array
    {
        $codes = [];
        foreach ($entity as $name => $value) {
            $name = self::snakeCase((string)$name);
            if ($name !== 'custom_attributes') {
                if ($value !== null) {
                    $codes[$name] = true;
                }
                continue;
            }
            foreach (is_array($value) ? $value : [] as $key => $custom) {
                // a list of {"attribute_code": ..., "value": ...}, or an object of code: value
                $code = is_array($custom) ? (self::member($custom, 'attribute_code') ?? $key) : $key;
                $given = is_array($custom) && array_key_exists('value', $custom) ? $custom['value'] : $custom;
                if (is_string($code) && $given !== null) {
                    $codes[$code] = true;
                }
            }
        }
        return array_map('strval', array_keys($codes));
    }

    /**
     * Return a member of the request by its name, which Magento takes in snake case and in camel case.
     *
     * @param mixed[] $object
     * @return mixed
     */
    public static function member(array $object, string $name)
    {
        foreach ($object as $key => $value) {
            if (self::snakeCase((string)$key) === $name) {
                return $value;
            }
        }
        return null;
    }

    private static function snakeCase(string $name): string
    {
        return strtolower((string)preg_replace('/(?<=[a-z0-9])(?=[A-Z])/', '_', $name));
    }
}
