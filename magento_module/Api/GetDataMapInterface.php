<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Api;

/**
 * Says which attributes which versions of which models have written, and how much.
 *
 * @api
 */
interface GetDataMapInterface
{
    /**
     * Return the data map, by entity type, attribute, model and version.
     *
     * @return \Tocsin\BreachNotification\Api\Data\DataMapEntryInterface[]
     */
    public function execute();
}
