<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Plugin;

use Magento\Framework\Webapi\ServiceInputProcessor;
use Tocsin\BreachNotification\Api\RecordProvenanceInBulkInterface;
use Tocsin\BreachNotification\Api\RecordProvenanceInterface;

/**
 * Hands the records of a REST request to their services as they came.
 *
 * Magento would make objects of them first, and at the first value of a wrong type or unknown field refuse the whole call:
 * of a thousand records none would be stored, and nobody would know which one was meant. The services check all of it
 * themselves. Declared they are as objects, so that Magento's own description of the API is right.
 */
class GiveRecordsAsTheyCame
{
    private const PARAMETERS = [
        RecordProvenanceInterface::class => 'record',
        RecordProvenanceInBulkInterface::class => 'records',
    ];

    /**
     * @param string $serviceClassName
     * @param string $serviceMethodName
     * @param mixed[] $inputArray
     * @return mixed[]
     */
    public function aroundProcess(
        ServiceInputProcessor $subject,
        callable $proceed,
        $serviceClassName,
        $serviceMethodName,
        array $inputArray
    ): array {
        $parameter = self::PARAMETERS[ltrim((string)$serviceClassName, '\\')] ?? null;
        return $parameter === null
            ? $proceed($serviceClassName, $serviceMethodName, $inputArray)
            : [$inputArray[$parameter] ?? null];
    }
}
